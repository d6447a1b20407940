// SPDX-License-Identifier: BSD-2-Clause

import java.lang.management.ManagementFactory;
import java.lang.ref.Cleaner;
import java.util.Arrays;
import java.util.Locale;
import java.util.concurrent.Semaphore;
import java.util.concurrent.atomic.AtomicInteger;

/** One measurement of java.lang.ref.Cleaner, after a few to warm up: as boehm.c does it. */
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
		long collect = System.nanoTime() - began;
		last.acquire();
		long wall = System.nanoTime() - began, wallCpu = cpu() - cpu;
		check();
		if (report)
			System.out.printf(Locale.ROOT, "java attach %.2f plain %.2f plain_cpu %.2f"
			    + " collect %.2f wall %.2f cpu %.2f kept 0%n", attach / n, plain / n,
			    plainCpu / n, collect / n, wall / n, wallCpu / n);
	}

	public static void main(String[] args) throws InterruptedException {
		int n = Integer.parseInt(args[0]);

		objects = new Dropped[n];
		ran = new byte[n];
		for (int i = 0; i <= WARM_UPS; i++)
			measure(i == WARM_UPS);
	}
}
