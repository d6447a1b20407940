// SPDX-License-Identifier: BSD-2-Clause

// One measurement of runtime.AddCleanup, as boehm does it with the Boehm collector and libcq-gc.
//
//	GOMAXPROCS=N go run go.go dying|steady1|steady2|alive|shuffled|calls COUNT
package main

import (
	"fmt"
	"math/rand"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

const (
	warmUps = 3
	times   = 7 // of which the least counts
)

// As large as the others': six words, which the collector scans.
type object struct {
	links [6]*object
}

var (
	objects []*object
	ran     []uint8 // how often the cleanup of each
	left    atomic.Int64
	last    = make(chan struct{})
)

func cleanup(number int) {
	ran[number]++
	if left.Add(-1) == 0 {
		last <- struct{}{}
	}
}

// cpu is what the process has used so far.
func cpu() time.Duration {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		panic(err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

// fill makes the objects; it returns how long that took, and what CPU.
func fill(n int, attach bool) (time.Duration, time.Duration) {
	began, cpuBegan := time.Now(), cpu()
	for i := range n {
		o := new(object)
		objects[i] = o
		if attach {
			runtime.AddCleanup(o, cleanup, i)
		}
	}
	return time.Since(began), cpu() - cpuBegan
}

func drop() (time.Time, time.Duration) {
	clear(objects)
	return time.Now(), cpu()
}

func check() {
	for i, n := range ran {
		if n != 1 {
			fmt.Fprintf(os.Stderr, "go: cleanup %d ran %d times\n", i, n)
			os.Exit(1)
		}
	}
}

func measure(n int, report bool) {
	per := func(d time.Duration) float64 { return float64(d) / float64(n) }

	runtime.GC()
	_, madeCPU := fill(n, false)
	began, cpuBegan := drop()
	runtime.GC()
	plain, plainCPU := time.Since(began), cpu()-cpuBegan

	clear(ran)
	left.Store(int64(n))
	attach, attachCPU := fill(n, true)
	began, cpuBegan = drop()
	runtime.GC()
	<-last
	wall, wallCPU := time.Since(began), cpu()-cpuBegan
	check()
	if report {
		fmt.Printf("go_p%d attach %.2f attach_cpu %.2f made_cpu %.2f plain %.2f plain_cpu %.2f wall %.2f cpu %.2f kept 0\n",
			runtime.GOMAXPROCS(0), per(attach), per(attachCPU), per(madeCPU), per(plain), per(plainCPU), per(wall), per(wallCPU))
	}
}

// steady is threads that allocate and attach; when to collect is the collector's.
func steady(n, threads int) {
	const alive = 10000 // the last ones that each keeps
	each := n / threads
	left.Store(int64(each * threads))
	var all sync.WaitGroup
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	began, cpuBegan := time.Now(), cpu()
	for t := range threads {
		all.Add(1)
		go func() {
			defer all.Done()
			kept := make([]*object, alive)
			for i := range each {
				o := new(object)
				kept[i%alive] = o
				runtime.AddCleanup(o, cleanup, t*each+i)
			}
		}()
	}
	all.Wait()
	wall, wallCPU := time.Since(began), cpu()-cpuBegan
	runtime.ReadMemStats(&after)
	fmt.Printf("go_p%d steady_%d %.2f steady_%d_cpu %.2f steady_%d_collections %d\n", runtime.GOMAXPROCS(0),
		threads, float64(wall)/float64(n), threads, float64(wallCPU)/float64(n), threads, after.NumGC-before.NumGC)
	runtime.GC()
	<-last
	check()
}

// resident is in bytes.
func resident() float64 {
	text, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		panic(err)
	}
	pages, err := strconv.ParseFloat(strings.Fields(string(text))[1], 64)
	if err != nil {
		panic(err)
	}
	return pages * float64(os.Getpagesize())
}

// collections returns the least time of some, and the least that one of them stopped the world.
func collections() (wall, used, stop time.Duration) {
	wall, used, stop = time.Hour, time.Hour, time.Hour
	var before, after runtime.MemStats
	for range times {
		runtime.ReadMemStats(&before)
		began, cpuBegan := time.Now(), cpu()
		runtime.GC()
		wall, used = min(wall, time.Since(began)), min(used, cpu()-cpuBegan)
		runtime.ReadMemStats(&after)
		stop = min(stop, time.Duration(after.PauseTotalNs-before.PauseTotalNs))
	}
	return wall, used, stop
}

func alive(n int, what string) {
	order := make([]int, n)
	for i := range n {
		objects[i] = new(object)
		order[i] = i
	}
	if what == "shuffled" {
		rand.New(rand.NewSource(1)).Shuffle(n, func(i, j int) { order[i], order[j] = order[j], order[i] })
	}
	left.Store(int64(n))
	wall, used, stop := collections()
	debug.FreeOSMemory()
	before := resident()
	for i, number := range order {
		runtime.AddCleanup(objects[number], cleanup, i)
	}
	debug.FreeOSMemory()
	after := resident()
	attached, usedAttached, stopAttached := collections()
	ms := func(d time.Duration) float64 { return float64(d) / 1e6 }
	fmt.Printf("go_p%d %s_ms %.3f %s_added_ms %.3f %s_added_cpu_ms %.3f %s_stop_added_ms %.3f rss %.2f\n",
		runtime.GOMAXPROCS(0), what, ms(wall), what, ms(attached-wall), what, ms(usedAttached-used),
		what, ms(stopAttached-stop), (after-before)/float64(n))
	runtime.KeepAlive(objects)
	clear(objects)
	runtime.GC()
	<-last
	check()
}

func calls(n int) {
	handles := make([]runtime.Cleanup, n)
	for i := range n {
		objects[i] = new(object)
	}
	add, stop, again := time.Hour, time.Hour, time.Hour
	for range times {
		runtime.GC()
		began := time.Now()
		for i := range n {
			handles[i] = runtime.AddCleanup(objects[i], cleanup, i)
		}
		add = min(add, time.Since(began))
		began = time.Now()
		for i := range n {
			handles[i].Stop()
		}
		stop = min(stop, time.Since(began))
		began = time.Now()
		for i := range n {
			handles[i].Stop()
		}
		again = min(again, time.Since(began))
	}
	per := func(d time.Duration) float64 { return float64(d) / float64(n) }
	fmt.Printf("go_p%d add %.2f stop %.2f stop_again %.2f\n", runtime.GOMAXPROCS(0), per(add), per(stop), per(again))
	runtime.KeepAlive(objects)
}

func main() {
	n, err := strconv.Atoi(os.Args[2])
	if err != nil || n <= 0 {
		panic("how many objects?")
	}
	objects = make([]*object, n)
	ran = make([]uint8, n)
	switch what := os.Args[1]; what {
	case "dying":
		for i := 0; i <= warmUps; i++ {
			measure(n, i == warmUps)
		}
	case "steady1":
		steady(n, 1)
	case "steady2":
		steady(n, 2)
	case "calls":
		calls(n)
	default:
		alive(n, what)
	}
}
