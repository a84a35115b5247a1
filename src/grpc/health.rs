//! `grpc.health.v1`, as its protocol says: a watch of an unknown service stays open.

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

use super::SERVICE_NAME;
use crate::error::{Error, Reason};

/// What the service says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Serving {
    Yes,
    No,
    /// The service stops: watches end.
    NoMore,
}

/// Whether the service serves. Clones are of the same service.
#[derive(Clone, Debug)]
pub(crate) struct Health(watch::Sender<Serving>);

impl Default for Health {
    fn default() -> Self {
        Self(watch::Sender::new(Serving::Yes))
    }
}

impl Health {
    /// What callers of health ask.
    pub(crate) fn service(&self) -> HealthServer<impl health_server::Health> {
        HealthServer::new(self.clone())
    }

    /// Tells all who watch.
    pub(crate) fn report(&self, is_serving: bool) {
        let now = if is_serving { Serving::Yes } else { Serving::No };
        self.0.send_if_modified(|serving| {
            let is_news = *serving != Serving::NoMore && *serving != now;
            if is_news {
                *serving = now;
            }
            is_news
        });
    }

    /// Tells all who watch that the service does not serve, and ends their watches.
    pub(crate) fn stop(&self) {
        self.0.send_replace(Serving::NoMore);
    }

    fn knows(service: &str) -> bool {
        ["", SERVICE_NAME].contains(&service)
    }
}

fn response(serving: Serving) -> HealthCheckResponse {
    let status = match serving {
        Serving::Yes => ServingStatus::Serving,
        Serving::No | Serving::NoMore => ServingStatus::NotServing,
    };
    HealthCheckResponse { status: status.into() }
}

#[tonic::async_trait]
impl health_server::Health for Health {
    async fn check(&self, request: Request<HealthCheckRequest>) -> Result<Response<HealthCheckResponse>, Status> {
        if Self::knows(&request.get_ref().service) {
            return Ok(Response::new(response(*self.0.borrow())));
        }
        Err(Error::new(
            Reason::ServiceUnknown,
            "`service`: health does not know this service; give the empty name or unibus.v1.RoomService",
        )
        .into())
    }

    type WatchStream = Pin<Box<dyn Stream<Item = Result<HealthCheckResponse, Status>> + Send>>;

    async fn watch(&self, request: Request<HealthCheckRequest>) -> Result<Response<Self::WatchStream>, Status> {
        let is_known = Self::knows(&request.get_ref().service);
        let seen = WatchStream::new(self.0.subscribe());
        if is_known {
            // the last word is told, and then it is over
            let told = stream::unfold(Some(seen), |seen| async {
                let mut seen = seen?;
                let serving = seen.next().await?;
                let rest = (serving != Serving::NoMore).then_some(seen);
                Some((Ok(response(serving)), rest))
            });
            return Ok(Response::new(Box::pin(told)));
        }
        let unknown = HealthCheckResponse { status: ServingStatus::ServiceUnknown.into() };
        let going_on = seen.take_while(|serving| future::ready(*serving != Serving::NoMore));
        let silence = going_on.filter_map(|_| future::ready(None));
        Ok(Response::new(Box::pin(stream::iter([Ok(unknown)]).chain(silence))))
    }
}
