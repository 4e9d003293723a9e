//! Who waits for more than two seconds at a terminal sees that something happens.

use std::io::IsTerminal;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

/// A line on standard error that comes after two seconds and goes when this is dropped.
pub struct Waiting(Option<(Sender<()>, JoinHandle<()>)>);

impl Waiting {
    /// Begins to wait for something that `what` says.
    pub fn new(what: &'static str) -> Waiting {
        if !std::io::stderr().is_terminal() {
            return Waiting(None);
        }
        let (done, is_done) = channel();
        Waiting(Some((done, std::thread::spawn(move || show(what, &is_done)))))
    }
}

fn show(what: &'static str, is_done: &Receiver<()>) {
    if is_done.recv_timeout(Duration::from_secs(2)) != Err(RecvTimeoutError::Timeout) {
        return;
    }
    let bar = ProgressBar::new_spinner().with_message(what);
    bar.set_style(ProgressStyle::with_template("{spinner} {msg}, {elapsed}").unwrap_or_else(|_| ProgressStyle::default_spinner()));
    while is_done.recv_timeout(Duration::from_millis(100)) == Err(RecvTimeoutError::Timeout) {
        bar.tick();
    }
    bar.finish_and_clear();
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some((done, thread)) = self.0.take() {
            drop(done);
            let _ = thread.join();
        }
    }
}
