// SPDX-License-Identifier: BSD-2-Clause

// One measurement of runtime.AddCleanup, after a few to warm up, as boehm.c does it
// with the Boehm collector and libcq.
//
//	GOMAXPROCS=N go run go.go OBJECTS
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"
)

const warmUps = 3

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

// fill makes the objects; it returns how long that took.
func fill(n int, attach bool) time.Duration {
	began := time.Now()
	for i := range n {
		o := new(object)
		objects[i] = o
		if attach {
			runtime.AddCleanup(o, cleanup, i)
		}
	}
	return time.Since(began)
}

func drop() (time.Time, time.Duration) {
	clear(objects)
	return time.Now(), cpu()
}

func check() {
	for i, times := range ran {
		if times != 1 {
			fmt.Fprintf(os.Stderr, "go: cleanup %d ran %d times\n", i, times)
			os.Exit(1)
		}
	}
}

func measure(n int, report bool) {
	per := func(d time.Duration) float64 { return float64(d) / float64(n) }

	runtime.GC()
	fill(n, false)
	began, cpuBegan := drop()
	runtime.GC()
	plain, plainCPU := time.Since(began), cpu()-cpuBegan

	clear(ran)
	left.Store(int64(n))
	attach := fill(n, true)
	began, cpuBegan = drop()
	runtime.GC()
	collect := time.Since(began)
	<-last
	wall, wallCPU := time.Since(began), cpu()-cpuBegan
	check()
	if report {
		fmt.Printf("go_p%d attach %.2f plain %.2f plain_cpu %.2f collect %.2f wall %.2f cpu %.2f kept 0\n",
			runtime.GOMAXPROCS(0), per(attach), per(plain), per(plainCPU), per(collect), per(wall), per(wallCPU))
	}
}

func main() {
	n, err := strconv.Atoi(os.Args[1])
	if err != nil || n <= 0 {
		panic("how many objects?")
	}
	objects = make([]*object, n)
	ran = make([]uint8, n)
	for i := 0; i <= warmUps; i++ {
		measure(n, i == warmUps)
	}
}
