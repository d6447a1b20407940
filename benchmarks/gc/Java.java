// SPDX-License-Identifier: BSD-2-Clause

import java.lang.management.ManagementFactory;
import java.lang.ref.Cleaner;
import java.util.Arrays;
import java.util.Locale;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;

/** One measurement of java.lang.ref.Cleaner, as boehm does it: dying|steady1|steady2|alive COUNT */
final class Java {
	private static final int WARM_UPS = 3;

	/** As large as the others'. */
	private static final class Dropped {
		Object a, b, c, d, e, f;
	}

	/** What runs; it must not know the object. */
	private record Action(int number) implements Runnable {
		@Override
		public void run() {
			ran[number]++;
			if (left.decrementAndGet() == 0)
				last.release();
		}
	}

	private static final Cleaner cleaner = Cleaner.create();
	private static final AtomicInteger left = new AtomicInteger();
	private static final Semaphore last = new Semaphore(0);
	private static Dropped[] objects;
	private static byte[] ran; /* how often the action of each */

	private Java() { }

	/** What the process has used so far. */
	private static long cpu() {
		return ((com.sun.management.OperatingSystemMXBean)
		    ManagementFactory.getOperatingSystemMXBean()).getProcessCpuTime();
	}

	private static long fill(boolean attach) {
		long began = System.nanoTime();

		for (int i = 0; i < objects.length; i++) {
			objects[i] = new Dropped();
			if (attach)
				cleaner.register(objects[i], new Action(i));
		}
		return System.nanoTime() - began;
	}

	private static void check() {
		for (int i = 0; i < ran.length; i++) {
			if (ran[i] != 1) {
				System.err.printf("java: action %d ran %d times%n", i, ran[i]);
				System.exit(1);
			}
		}
	}

	private static void measure(boolean report) throws InterruptedException {
		double n = objects.length;

		System.gc();
		fill(false);
		Arrays.fill(objects, null);
		long cpu = cpu(), began = System.nanoTime();
		System.gc();
		long plain = System.nanoTime() - began, plainCpu = cpu() - cpu;

		Arrays.fill(ran, (byte) 0);
		left.set(objects.length);
		long attach = fill(true);
		Arrays.fill(objects, null);
		cpu = cpu();
		began = System.nanoTime();
		System.gc();
		last.acquire();
		long wall = System.nanoTime() - began, wallCpu = cpu() - cpu;
		check();
		if (report)
			System.out.printf(Locale.ROOT, "java attach %.2f plain %.2f plain_cpu %.2f"
			    + " wall %.2f cpu %.2f kept 0%n", attach / n, plain / n,
			    plainCpu / n, wall / n, wallCpu / n);
	}

	/** Threads that allocate and attach; when to collect is the collector's. */
	private static void steady(int count, int threads) throws InterruptedException {
		final int alive = 10000; /* the last ones that each keeps */
		int each = count / threads;
		Thread[] mutators = new Thread[threads];

		left.set(each * threads);
		long cpu = cpu(), began = System.nanoTime();
		for (int t = 0; t < threads; t++) {
			int first = t * each;
			mutators[t] = new Thread(() -> {
				Object[] kept = new Object[alive];
				for (int i = 0; i < each; i++) {
					Object o = kept[i % alive] = new Dropped();
					cleaner.register(o, new Action(first + i));
				}
			});
			mutators[t].start();
		}
		for (Thread t : mutators)
			t.join();
		double wall = System.nanoTime() - began, wallCpu = cpu() - cpu;
		System.out.printf(Locale.ROOT, "java steady_%d %.2f steady_%d_cpu %.2f%n", threads, wall / count,
		    threads, wallCpu / count);
		System.gc();
		last.acquire();
		check();
	}

	/** The least of some collections, in ms: each stops the world from begin to end. */
	private static double collections() {
		long least = Long.MAX_VALUE;

		for (int i = 0; i < 7; i++) {
			long began = System.nanoTime();
			System.gc();
			least = Math.min(least, System.nanoTime() - began);
		}
		return least / 1e6;
	}

	private static void alive() {
		fill(false);
		double plain = collections();
		for (int i = 0; i < objects.length; i++)
			cleaner.register(objects[i], new Action(i));
		double added = collections() - plain;
		System.out.printf(Locale.ROOT, "java alive_ms %.3f alive_added_ms %.3f alive_stop_added_ms %.3f%n",
		    plain, added, added);
	}

	public static void main(String[] args) throws InterruptedException {
		int n = Integer.parseInt(args[1]);

		objects = new Dropped[n];
		ran = new byte[n];
		left.set(n);
		switch (args[0]) {
		case "dying":
			for (int i = 0; i <= WARM_UPS; i++)
				measure(i == WARM_UPS);
			break;
		case "steady1":
			steady(n, 1);
			break;
		case "steady2":
			steady(n, 2);
			break;
		default:
			alive();
		}
	}
}
