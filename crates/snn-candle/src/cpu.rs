//! What the CPU computes by the kernels of `snn-cpu`: step kernels always, other kernels where they are faster than candle's.

use candle_core::Tensor as CandleTensor;
use snn_cpu::convolution::convolve;
use snn_cpu::max_pool::{MaxPoolBackward, Sources};
use snn_cpu::products::Product;
use snn_cpu::reductions::Reduce;
use snn_cpu::step::Step;
use snn_cpu::{Identity, Kept, Machine, Products};
use snn_ir::{DType, Data, Graph, RuntimeError, Tensor, Value};
use snn_plan::buffers::InputSlice;
use snn_plan::step::StepKernel;
use snn_plan::{Kernel, Task};

use crate::kernels::sizes;
use crate::run::Run;
use crate::values::{Slot, Values};

impl Run<'_> {
    /// A step kernel as machine code.
    pub(crate) fn on_cpu(
        &self,
        machine: &Machine,
        graph: &Graph,
        kernel: &StepKernel,
        values: &Values,
    ) -> candle_core::Result<Vec<(Value, Slot)>> {
        let readings = kernel.sources().map(|v| Ok((v, values.0[&v].reading()?))).collect::<candle_core::Result<Vec<_>>>()?;
        let slices = readings.iter().map(|(v, r)| Ok((*v, r.elements()?))).collect::<candle_core::Result<Vec<_>>>()?;
        let of = |v: Value| slices.iter().find(|(w, _)| *w == v).map_or(InputSlice::Floats(&[]), |(_, e)| *e);
        let results = Step(kernel).execute(machine, of, &[], |v, dtype| {
            let n = sizes(graph, v).iter().product();
            self.runnable.buffers.output(dtype, n)
        });
        Ok(results.into_iter().map(|(v, buffer)| (v, Slot::host(buffer.tensor(sizes(graph, v))))).collect())
    }

    /// What the CPU has a faster form of than candle: products by the places of spikes, convolutions, pools, reductions and movement.
    pub(crate) fn own_kernel(
        &self,
        graph: &Graph,
        task: &Task,
        shape: &[usize],
        values: &mut Values,
    ) -> Result<Option<Tensor>, RuntimeError> {
        let failed = |e: candle_core::Error| self.runnable.failed(&e);
        let node = graph.node(task.node);
        let operands = &node.operands;
        if let Kernel::Move = &task.kernel {
            for v in operands {
                self.slot(graph, *v, values)?;
            }
            // What is in candle's memory stays there.
            let hosts: Option<Vec<&Tensor>> = operands.iter().map(|v| values.0[v].host.as_ref()).collect();
            let moved = hosts.map(|h| snn_cpu::moves::execute(&node.op, &h, shape.to_vec(), |n| self.runnable.buffers.take(n)));
            return Ok(moved);
        }
        if let Kernel::FirstSpike(axis) = &task.kernel {
            let host = self.slot(graph, operands[0], values)?.host.as_ref();
            return Ok(host.filter(|x| snn_cpu::moves::first_spike_fits(x)).map(|x| snn_cpu::moves::first_spike(x, *axis)));
        }
        if let Kernel::MaxPoolGradient(u) = &task.kernel {
            let sources = [u.x, u.y, u.gradient];
            for v in sources {
                self.slot(graph, v, values)?;
            }
            let [x, y, gradient] = sources.map(|v| values.0[&v].reading());
            let (x, y, gradient) = (x.map_err(failed)?, y.map_err(failed)?, gradient.map_err(failed)?);
            let mut out = self.runnable.buffers.take(shape.iter().product());
            MaxPoolBackward(u).execute(
                Sources { x: x.floats().map_err(failed)?, y: y.floats().map_err(failed)?, gradient: gradient.floats().map_err(failed)? },
                &mut out,
            );
            return Ok(Some(Tensor::f32(shape, out)));
        }
        let (x, w) = match &task.kernel {
            Kernel::Product(p) if p.lhs.permutation.is_none() && p.rhs.permutation.is_none() => (p.lhs.source, p.rhs.source),
            Kernel::Convolution(_) => (operands[0], operands[1]),
            Kernel::Reduction(f) => (f.source, f.source),
            Kernel::Delay(_) if node.types[0].dtype == DType::F32 => (operands[0], operands[0]),
            _ => return Ok(None),
        };
        self.slot(graph, x, values)?;
        self.slot(graph, w, values)?;
        let (x, w) = (&values.0[&x], &values.0[&w]);
        let (a, b) = (x.reading().map_err(failed)?, w.reading().map_err(failed)?);
        let (a, b) = (a.floats().map_err(failed)?, b.floats().map_err(failed)?);
        let mut out = self.runnable.buffers.take(shape.iter().product());
        // Weights that are the same as last time are known by their memory.
        let identity = || match (&w.host, &w.device) {
            (Some(t), _) if let Data::F32(v) = t.data() => Identity::Shared(v.clone()),
            (_, t) => Identity::Named(format!("{:?}", t.as_ref().map(CandleTensor::id))),
        };
        let buffers = &self.runnable.buffers;
        let packed = self.runnable.kernels.machine().map_or(&[] as &[Kept], Machine::packed);
        let done = match &task.kernel {
            Kernel::Product(plan) => {
                Product { plan, packed, buffers, products: Products::default() }.execute_spikes(a.into(), b.into(), identity, &mut out)
            }
            Kernel::Convolution(c) => {
                convolve(c, packed, buffers, (a.into(), b), identity, Products::default(), &mut out);
                true
            }
            Kernel::Delay(steps) => {
                snn_cpu::moves::delay(a, *steps, shape[1..].iter().product(), &mut out);
                true
            }
            Kernel::Reduction(f) => {
                Reduce(f).execute(a, &mut out);
                true
            }
            _ => false,
        };
        if !done {
            buffers.give(out);
            return Ok(None);
        }
        Ok(Some(Tensor::f32(shape, out)))
    }
}
