//! Kernels on one thread, beside what the machine can do: `cargo bench -p snn-tests`.
//!
//! A rate in bytes is to be compared with `machine::copy`, one in items, which are products with a sum, with `machine::gemm`.

#![allow(unsafe_code)]

use divan::counter::{BytesCount, ItemsCount};
use divan::{Bencher, black_box};
use snn_tests::workloads::{WORKLOADS, Work, Workload};

#[path = "../tests/common/prepared.rs"]
mod prepared;

fn main() {
    divan::main();
}

#[divan::bench(args = WORKLOADS.iter().map(|w| w.name))]
fn kernels(bencher: Bencher<'_, '_>, name: &str) {
    let Some(workload) = WORKLOADS.iter().find(|w| w.name == name) else { return };
    let Workload { work, .. } = workload;
    let prepared = prepared::prepared(workload);
    let run = || prepared.recycle(black_box(prepared.run().expect("the program runs")));
    match work {
        Work::Bytes(n) => bencher.counter(BytesCount::new(*n)).bench_local(run),
        Work::Products(n) => bencher.counter(ItemsCount::new(*n)).bench_local(run),
    }
}

/// `c[m, n] = a[m, k] b[n, k]`, with the second as PyTorch has weights.
fn gemm([m, n, k]: [usize; 3], a: &[f32], b: &[f32], c: &mut [f32]) {
    assert!(a.len() == m * k && b.len() == n * k && c.len() == m * n);
    // SAFETY: the sizes were checked; the result is a matrix of its own.
    unsafe {
        let none = gemm::Parallelism::None;
        let (cs, rs) = (1, n as isize);
        gemm::gemm(
            m,
            n,
            k,
            c.as_mut_ptr(),
            cs,
            rs,
            false,
            a.as_ptr(),
            1,
            k as isize,
            b.as_ptr(),
            k as isize,
            1,
            0.0,
            1.0,
            false,
            false,
            false,
            none,
        );
    }
}

mod machine {
    use super::{Bencher, BytesCount, ItemsCount, black_box};

    /// Copies the input of `lif`.
    #[divan::bench]
    fn copy(bencher: Bencher<'_, '_>) {
        let (from, mut to) = (vec![1f32; 16 * 16_384], vec![0f32; 16 * 16_384]);
        bencher.counter(BytesCount::new(2 * 4 * from.len())).bench_local(|| black_box(&mut to).copy_from_slice(black_box(&from)));
    }

    /// The product of `product_dense`, by the `gemm` crate alone.
    #[divan::bench]
    fn gemm(bencher: Bencher<'_, '_>) {
        let (m, n, k) = (256, 512, 512);
        let (a, b, mut c) = (vec![0.5f32; m * k], vec![0.25f32; n * k], vec![0f32; m * n]);
        bencher.counter(ItemsCount::new(m * n * k)).bench_local(|| super::gemm([m, n, k], &a, &b, black_box(&mut c)));
    }
}
