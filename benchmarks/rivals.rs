// SPDX-License-Identifier: BSD-2-Clause
//! The Rust of crossbeam.c and rayon.c: what those call, and the workers.

use std::os::raw::{c_uint, c_void};
use std::thread::JoinHandle;

type Function = unsafe extern "C" fn(*mut c_void);

extern "C" {
    /// counts.c; also for threads that C does not know.
    fn counts_ran_some(counts: *mut c_void, n: u64);
    fn counts_ran_one(counts: *mut c_void);
}

/// A callback of the benchmark's. It may run in any thread.
#[derive(Clone, Copy)]
struct Callback {
    function: Function,
    arg: *mut c_void,
}

unsafe impl Send for Callback {}

impl Callback {
    fn run(self) {
        unsafe { (self.function)(self.arg) }
    }
}

/// `struct counts` of the queue that it belongs to, and outlives.
#[derive(Clone, Copy)]
struct Counts(*mut c_void);

unsafe impl Send for Counts {}
unsafe impl Sync for Counts {}

impl Counts {
    fn ran(self, n: u64) {
        unsafe { counts_ran_some(self.0, n) }
    }

    fn ran_one(self) {
        unsafe { counts_ran_one(self.0) }
    }
}

// ------------------------------------------------------------------ crossbeam

/// A channel without bound, and its workers, who end when it has no sender.
pub struct Channel {
    sender: Option<crossbeam_channel::Sender<Callback>>,
    receiver: crossbeam_channel::Receiver<Callback>,
    counts: Counts,
    workers: Vec<JoinHandle<()>>,
}

fn work(receiver: &crossbeam_channel::Receiver<Callback>, counts: Counts) {
    loop {
        let ran = run_all(receiver);
        counts.ran(ran);
        match receiver.recv() {
            Ok(callback) => callback.run(),
            Err(_) => return,
        }
        counts.ran(1);
    }
}

fn run_all(receiver: &crossbeam_channel::Receiver<Callback>) -> u64 {
    let mut ran = 0;
    while let Ok(callback) = receiver.try_recv() {
        callback.run();
        ran += 1;
    }
    ran
}

#[no_mangle]
pub extern "C" fn crossbeam_new(workers: c_uint, counts: *mut c_void) -> *mut Channel {
    let (sender, receiver) = crossbeam_channel::unbounded();
    let counts = Counts(counts);
    let workers = (0..workers)
        .map(|_| {
            let receiver = receiver.clone();
            std::thread::spawn(move || work(&receiver, counts))
        })
        .collect();
    Box::into_raw(Box::new(Channel { sender: Some(sender), receiver, counts, workers }))
}

/// # Safety
/// `channel` is crossbeam_new's, and not used any more.
#[no_mangle]
pub unsafe extern "C" fn crossbeam_free(channel: *mut Channel) {
    let mut channel = Box::from_raw(channel);
    channel.sender = None;
    for worker in channel.workers.drain(..) {
        worker.join().expect("a worker ends");
    }
}

/// # Safety
/// `channel` is crossbeam_new's.
#[no_mangle]
pub unsafe extern "C" fn crossbeam_send(
    channel: *const Channel,
    function: Function,
    arg: *mut c_void,
) -> bool {
    match &(*channel).sender {
        Some(sender) => sender.send(Callback { function, arg }).is_ok(),
        None => false,
    }
}

/// # Safety
/// `channel` is crossbeam_new's.
#[no_mangle]
pub unsafe extern "C" fn crossbeam_run_here(channel: *const Channel) {
    let ran = run_all(&(*channel).receiver);
    (*channel).counts.ran(ran);
}

// ---------------------------------------------------------------------- rayon

pub struct Pool {
    pool: rayon::ThreadPool,
    counts: Counts,
}

/// NULL: there are no threads.
#[no_mangle]
pub extern "C" fn rayon_new(workers: c_uint, counts: *mut c_void) -> *mut Pool {
    match rayon::ThreadPoolBuilder::new().num_threads(workers as usize).build() {
        Ok(pool) => Box::into_raw(Box::new(Pool { pool, counts: Counts(counts) })),
        Err(_) => std::ptr::null_mut(),
    }
}

/// # Safety
/// `pool` is rayon_new's, and not used any more. Its threads end soon.
#[no_mangle]
pub unsafe extern "C" fn rayon_free(pool: *mut Pool) {
    drop(Box::from_raw(pool));
}

/// # Safety
/// `pool` is rayon_new's.
#[no_mangle]
pub unsafe extern "C" fn rayon_push(pool: *const Pool, function: Function, arg: *mut c_void) {
    let callback = Callback { function, arg };
    let counts = (*pool).counts;
    (*pool).pool.spawn(move || {
        callback.run();
        counts.ran_one(); // nothing tells when a worker finds no more
    });
}
