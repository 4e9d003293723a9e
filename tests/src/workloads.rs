//! Programs of one kernel each: for `cargo bench`, and for the counts of their instructions.

/// A program in which one kernel does nearly everything.
pub struct Workload {
    /// What it is.
    pub name: &'static str,
    /// The program; its net is `main`.
    pub text: &'static str,
    /// The shape of its input `x`.
    pub shape: &'static [usize],
    /// The share of the input that is 1; none where it is numbers.
    pub density: Option<f32>,
    /// Are weights integers of 8 bits?
    pub integers: bool,
    /// With the gradients of these.
    pub gradients: &'static [&'static str],
    /// What a run does.
    pub work: Work,
}

/// What a run does, to compare it with the machine.
#[derive(Clone, Copy)]
pub enum Work {
    /// Bytes that it must read and write.
    Bytes(usize),
    /// Products with a sum, if none were skipped.
    Products(usize),
}

const LIF: &str = "net main(x: f32[T, N]) { lif(x) }";
const LIF_SUM: &str = "net main(x: f32[T, N]) -> f32[] { sum(lif(x) * x) }";
const PRODUCT: &str = "net main(x: f32[B, 512]) {\n    layer fc = linear(512, 512, bias = false)\n    fc(x)\n}";
const PRODUCT_SUM: &str =
    "net main(x: f32[B, 512]) -> f32[] {\n    layer fc = linear(512, 512, bias = false)\n    let y = fc(x)\n    sum(y * y)\n}";
const CONVOLUTION: &str = "net main(x: f32[B, 32, 16, 16]) {\n    layer c = conv2d(32, 32, 3, padding = 1, bias = false)\n    c(x)\n}";
const CONVOLUTION_SUM: &str = "net main(x: f32[B, 32, 16, 16]) -> f32[] {\n    layer c = conv2d(32, 32, 3, padding = 1, bias = false)\n    let y = c(x)\n    sum(y * y)\n}";
const POOL_SUM: &str = "net main(x: f32[B, C, 32, 32]) -> f32[] {\n    let y = max_pool2d(x, 2)\n    sum(y * y)\n}";

const STEPS: &[usize] = &[16, 16_384];
const ROWS: &[usize] = &[256, 512];
const IMAGES: &[usize] = &[8, 32, 16, 16];
const PLANES: &[usize] = &[8, 16, 32, 32];
const ONE_PRODUCT: Work = Work::Products(256 * 512 * 512);
const ONE_CONVOLUTION: Work = Work::Products(8 * 32 * 16 * 16 * 32 * 9);

const fn workload(name: &'static str, text: &'static str, shape: &'static [usize], density: Option<f32>, work: Work) -> Workload {
    Workload { name, text, shape, density, integers: false, gradients: &[], work }
}

/// All of them.
pub const WORKLOADS: &[Workload] = &[
    workload("lif", LIF, STEPS, None, Work::Bytes(2 * 4 * 16 * 16_384)),
    Workload { gradients: &["x"], ..workload("lif_gradient", LIF_SUM, STEPS, None, Work::Bytes(4 * 4 * 16 * 16_384)) },
    workload("product_dense", PRODUCT, ROWS, None, ONE_PRODUCT),
    workload("product_spikes_0.05", PRODUCT, ROWS, Some(0.05), ONE_PRODUCT),
    workload("product_spikes_0.4", PRODUCT, ROWS, Some(0.4), ONE_PRODUCT),
    Workload { integers: true, ..workload("product_i8_0.6", PRODUCT, ROWS, Some(0.6), ONE_PRODUCT) },
    Workload {
        gradients: &["x", "fc.weight"],
        ..workload("product_gradient", PRODUCT_SUM, ROWS, Some(0.1), Work::Products(3 * 256 * 512 * 512))
    },
    workload("convolution_dense", CONVOLUTION, IMAGES, None, ONE_CONVOLUTION),
    workload("convolution_spikes_0.1", CONVOLUTION, IMAGES, Some(0.1), ONE_CONVOLUTION),
    Workload { integers: true, ..workload("convolution_i8_0.6", CONVOLUTION, IMAGES, Some(0.6), ONE_CONVOLUTION) },
    Workload {
        gradients: &["x", "c.weight"],
        ..workload("convolution_gradient", CONVOLUTION_SUM, IMAGES, None, Work::Products(3 * 8 * 32 * 16 * 16 * 32 * 9))
    },
    Workload { gradients: &["x"], ..workload("max_pool_gradient", POOL_SUM, PLANES, None, Work::Bytes(3 * 4 * 8 * 16 * 32 * 32)) },
];
