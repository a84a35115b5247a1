//! Runs the worker of a room's queue inside the task of the caller that needed it. A lone publish then passes no other
//! task on its way to NATS, which saves two hand-overs between tasks.

use std::{
    fmt,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::runtime::Handle;
use tokio_util::task::TaskTracker;

/// A worker that the waiting caller polls. If the driver is dropped before the worker has ended, a task of its own runs the
/// rest: the jobs of other callers must not wait for a caller that has its answer, or that has gone.
pub(super) struct Driver {
    worker: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
    tasks: TaskTracker,
    runtime: Handle,
}

impl Driver {
    pub(super) fn new(
        worker: impl Future<Output = ()> + Send + 'static,
        tasks: &TaskTracker,
        runtime: &Handle,
    ) -> Self {
        Self { worker: Some(Box::pin(worker)), tasks: tasks.clone(), runtime: runtime.clone() }
    }
}

/// Ends when the worker has ended.
///
/// # Cancel safety
/// May be dropped at any point.
impl Future for Driver {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let Some(worker) = &mut self.worker else { return Poll::Ready(()) };
        let polled = worker.as_mut().poll(context);
        if polled.is_ready() {
            self.worker = None;
        }
        polled
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        if let Some(worker) = self.worker.take() {
            self.tasks.spawn_on(worker, &self.runtime);
        }
    }
}

impl fmt::Debug for Driver {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Driver").field("ended", &self.worker.is_none()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::{Notify, oneshot};

    use super::*;

    #[tokio::test]
    async fn a_dropped_driver_leaves_its_worker_to_a_task() {
        // Goal: the worker goes on when its caller drops it half way.
        // Method: poll a worker that waits, drop the driver, then let the worker end and report.
        let (tasks, go) = (TaskTracker::new(), Arc::new(Notify::new()));
        let (report, mut reported) = oneshot::channel();
        let waits = Arc::clone(&go);
        let worker = async move {
            waits.notified().await;
            let _ = report.send(());
        };
        let mut driver = Driver::new(worker, &tasks, &Handle::current());
        assert!(futures_util::poll!(&mut driver).is_pending());
        assert_eq!(tasks.len(), 0, "a task runs the worker before it is dropped");
        drop(driver);
        assert_eq!(tasks.len(), 1, "no task runs the worker");
        assert!(reported.try_recv().is_err());
        go.notify_one();
        assert_eq!(reported.await, Ok(()));
    }

    #[tokio::test]
    async fn a_worker_that_has_ended_leaves_no_task() {
        // Goal: a lone publish starts no task.
        // Method: poll a worker to its end, and again, and drop it.
        let tasks = TaskTracker::new();
        let mut driver = Driver::new(async {}, &tasks, &Handle::current());
        (&mut driver).await;
        (&mut driver).await;
        drop(driver);
        assert_eq!(tasks.len(), 0);
    }
}
