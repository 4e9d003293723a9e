//! Learning rates over epochs, as `torch.optim.lr_scheduler` has them.

/// How the learning rate changes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Schedule {
    /// It stays.
    Constant,
    /// `CosineAnnealingLR` over all epochs, down to 0.
    Cosine,
    /// `StepLR`: times `gamma` every `every` epochs.
    Step {
        /// After how many epochs.
        every: usize,
        /// Times what.
        gamma: f64,
    },
}

impl Schedule {
    /// The learning rate of an epoch, counted from 0.
    pub fn rate(&self, base: f64, epoch: usize, epochs: usize) -> f64 {
        match self {
            Schedule::Constant => base,
            Schedule::Cosine => base * (1.0 + (std::f64::consts::PI * epoch as f64 / epochs.max(1) as f64).cos()) / 2.0,
            Schedule::Step { every, gamma } => base * gamma.powi((epoch / (*every).max(1)) as i32),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Schedule;

    #[test]
    fn rates_are_pytorchs() {
        let cosine: Vec<f64> = (0..4).map(|e| Schedule::Cosine.rate(0.1, e, 4)).collect();
        // torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 4)
        for (got, want) in cosine.iter().zip([0.1, 0.085_355_339, 0.05, 0.014_644_661]) {
            assert!((got - want).abs() < 1e-8);
        }
        let step = Schedule::Step { every: 2, gamma: 0.1 };
        assert!((step.rate(1.0, 3, 9) - 0.1).abs() < 1e-12);
    }
}
