//! The `grpc.health.v1` service. As its protocol requires, a watch of an unknown service stays open.

use std::pin::Pin;

use futures_util::{Stream, StreamExt, future, stream};
use tokio::sync::watch;
use tokio_stream::wrappers::WatchStream;
use tonic::{Request, Response, Status};
use tonic_health::pb::{
    HealthCheckRequest, HealthCheckResponse,
    health_check_response::ServingStatus,
    health_server::{self, HealthServer},
};

use super::{SERVICE_NAME, status::status};
use crate::error::{Error, Reason};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serving {
    Yes,
    No,
    /// The service does not serve any more: watches end.
    Stopped,
}

/// The reported health of the service. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct Health(watch::Sender<Serving>);

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(Serving::Yes))
    }
}

impl Health {
    /// The gRPC service that reports this health.
    pub(crate) fn service(&self) -> HealthServer<impl health_server::Health> {
        HealthServer::new(self.clone())
    }

    /// Reports to all watches whether the service serves. Ignored after [`stop`](Self::stop).
    pub(crate) fn report(&self, is_serving: bool) {
        let now = if is_serving { Serving::Yes } else { Serving::No };
        self.0.send_if_modified(|serving| {
            let has_changed = *serving != Serving::Stopped && *serving != now;
            if has_changed {
                *serving = now;
            }
            has_changed
        });
    }

    /// Reports to all watches that the service does not serve, and ends them.
    pub(crate) fn stop(&self) {
        self.0.send_replace(Serving::Stopped);
    }

    fn knows(service: &str) -> bool {
        ["", SERVICE_NAME].contains(&service)
    }
}

fn response(serving: Serving) -> HealthCheckResponse {
    let status = match serving {
        Serving::Yes => ServingStatus::Serving,
        Serving::No | Serving::Stopped => ServingStatus::NotServing,
    };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if Self::knows(&request.get_ref().service) {
            return Ok(Response::new(response(*self.0.borrow())));
        }
        Err(status(Error::new(
            Reason::ServiceUnknown,
            "`service`: health does not know this service; give the empty name or unibus.v1.RoomService",
        )))
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = Self::knows(&request.get_ref().service);
        let states = WatchStream::new(self.0.subscribe());
        if is_known {
            // a watch ends after it has reported the last state
            let reports = stream::unfold(Some(states), |states| async {
                let mut states = states?;
                let serving = states.next().await?;
                let rest = (serving != Serving::Stopped).then_some(states);
                Some((Ok(response(serving)), rest))
            });
            return Ok(Response::new(Box::pin(reports)));
        }
        let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let until_stopped = states.take_while(|serving| future::ready(*serving != Serving::Stopped));
        let silence = until_stopped.filter_map(|_| future::ready(None));
        Ok(Response::new(Box::pin(stream::iter([Ok(unknown)]).chain(silence))))
    }
}
