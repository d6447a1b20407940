# SPDX-License-Identifier: BSD-2-Clause
# What scripts/bench-gc measured: a line for each metric and contestant, with the ratio to Go in the same round, then
# the targets. Input: "round N", and lines of NAME METRIC VALUE METRIC VALUE ... -v go=NAME: the Go to compare with.

$1 == "round" { round = $2; next }

{
	if (!($1 in seen)) names[++nnames] = $1
	seen[$1] = 1
	for (i = 2; i < NF; i += 2)
		add($1, $i, now[$i] = $(i + 1))
	if ($2 == "attach") {
		add($1, "added_wall", now["wall"] - now["plain"])
		add($1, "added_cpu", now["cpu"] - now["plain_cpu"])
		if (now["wall"] > now["plain"])
			add($1, "M_per_s", 1000 / (now["wall"] - now["plain"]))
	}
}

function add(name, metric, x) {
	if (!(metric in known)) metrics[++nmetrics] = metric
	known[metric] = 1
	value[name, metric, round] = x
	rounds[round] = 1
}

# Sorts v[1..n]; the median.
function median(v, n,    i, j, x) {
	for (i = 2; i <= n; i++) {
		x = v[i]
		for (j = i; j > 1 && v[j - 1] > x; j--) v[j] = v[j - 1]
		v[j] = x
	}
	return (v[int((n + 1) / 2)] + v[int(n / 2) + 1]) / 2
}

# Of all rounds, into got[], sorted; how many there are.
function collect(name, metric,    r, n) {
	n = 0
	for (r in rounds) if ((name, metric, r) in value) got[++n] = value[name, metric, r]
	if (n > 0) middle = median(got, n)
	return n
}

# The median of the ratios within a round, into `middle`; of how many rounds.
function ratios(name, metric, to,    r, n) {
	n = 0
	for (r in rounds)
		if ((name, metric, r) in value && (to, metric, r) in value && value[to, metric, r] > 0)
			got[++n] = value[name, metric, r] / value[to, metric, r]
	if (n > 0) middle = median(got, n)
	return n
}

function verdict(text, bound, least, beside) {
	printf "TARGET %-44s %s %6.2f reached %8.2f %s%s\n", text, least ? ">=" : "<=", bound, middle,
	    (least ? middle >= bound : middle <= bound) ? "yes" : "NO", beside
}

function to_go(text, name, metric, bound) { if (ratios(name, metric, go)) verdict(text ", x Go", bound, 0, "") }

function own(text, name, metric, bound,    mine, beside, i) {
	for (i = 1; i <= nnames; i++)
		if ((names[i] == go || names[i] == "boehm_long_link" || names[i] == "java") && collect(names[i], metric))
			beside = beside sprintf(" (%s %.2f)", names[i], middle)
	if (collect(name, metric)) verdict(text, bound, 0, beside)
}

function beyond_in_place(what, bound,    most) {
	if (!collect("boehm_in_place", what "_own")) return
	most = middle
	collect("boehm_in_place", what "_cleanup")
	most = (most + middle) / most
	if (ratios("boehm_in_place", what, "boehm_cq"))
		verdict(what ": mutators, x in place", bound, 1, sprintf(" (own work and cleanup to own work: %.2f)", most))
	if (ratios("boehm_in_place", what "_mutator_cpu", "boehm_cq"))
		verdict("  by their own CPU time", bound, 1, "")
}

END {
	for (m = 1; m <= nmetrics; m++) for (i = 1; i <= nnames; i++) {
		if (!(n = collect(names[i], metrics[m]))) continue
		printf "GC %-21s %-14s median %10.2f min %10.2f max %10.2f", metrics[m], names[i], middle, got[1], got[n]
		if (names[i] != go && ratios(names[i], metrics[m], go)) printf " vs %s %.3f", go, middle
		print ""
	}
	to_go("attach", "boehm_cq", "attach", 0.15)
	to_go("  CPU", "boehm_cq", "attach_cpu", 0.15)
	to_go("  with arguments in collected memory", "boehm_cq_args", "attach", 0.15)
	to_go("to the last cleanup, wall", "boehm_cq", "added_wall", 0.3)
	to_go("to the last cleanup, CPU", "boehm_cq", "added_cpu", 0.3)
	to_go("  with arguments, wall", "boehm_cq_args", "added_wall", 0.3)
	to_go("  with arguments, CPU", "boehm_cq_args", "added_cpu", 0.3)
	to_go("steady, 1 thread", "boehm_cq", "steady_1", 0.25)
	to_go("steady, 2 threads", "boehm_cq", "steady_2", 0.25)
	to_go("  1 thread, CPU", "boehm_cq", "steady_1_cpu", 0.25)
	to_go("  2 threads, CPU", "boehm_cq", "steady_2_cpu", 0.25)
	to_go("  with arguments, 1 thread, CPU", "boehm_cq_args", "steady_1_cpu", 0.25)
	to_go("  with arguments, 2 threads, CPU", "boehm_cq_args", "steady_2_cpu", 0.25)
	own("alive, added to a collection, ms", "boehm_cq", "alive_added_ms", 3)
	own("  CPU", "boehm_cq", "alive_added_cpu_ms", 3)
	own("  shuffled", "boehm_cq", "shuffled_added_ms", 18)
	own("  shuffled, CPU", "boehm_cq", "shuffled_added_cpu_ms", 18)
	own("  added to the stopped time", "boehm_cq", "alive_stop_added_ms", 1.5)
	own("lock held by all dying at once, ms", "boehm_cq", "alive_dying_lock_ms", 7)
	own("bytes per attached cleanup", "boehm_cq", "bytes", 32)
	own("  resident", "boehm_cq", "rss", 32)
	own("add with a handle, ns", "boehm_cq", "add", 25)
	own("stop, ns", "boehm_cq", "stop", 12)
	own("stop again, ns", "boehm_cq", "stop_again", 8)
	beyond_in_place("munmap", 1.5)
	beyond_in_place("close", 1.5)
	beyond_in_place("compute", 1.5)
}
