//! Properties of the RPCs that the contract's descriptor declares.

use std::{
    collections::{BTreeMap, HashSet},
    sync::LazyLock,
};

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::{metrics::calls::ServedMethod, v1};

/// The paths of the RPCs whose request is a stream.
static WITH_REQUEST_STREAM: LazyLock<HashSet<String>> = LazyLock::new(|| {
    let set = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap_or_default();
    let services = set.file.iter().flat_map(|file| file.service.iter().map(move |service| (file.package(), service)));
    let methods = services.flat_map(|(package, service)| {
        let streaming = service.method.iter().filter(|method| method.client_streaming());
        streaming.map(move |method| format!("/{package}.{}/{}", service.name(), method.name()))
    });
    methods.collect()
});

/// The path of the RPC whose commands arrive in other calls.
const OPEN_SESSION: &str = "/unibus.v1.RoomService/OpenSession";

/// Every method that the service serves: those of the contract, of health and of reflection.
pub(crate) fn served() -> Vec<ServedMethod> {
    let sets = [
        v1::FILE_DESCRIPTOR_SET,
        tonic_health::pb::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
        tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    ];
    let mut found = BTreeMap::new();
    for file in sets.into_iter().flat_map(|set| FileDescriptorSet::decode(set).unwrap_or_default().file) {
        for service in &file.service {
            let name = format!("{}.{}", file.package(), service.name());
            for method in &service.method {
                let kind = match (method.client_streaming(), method.server_streaming()) {
                    (false, false) => "unary",
                    (true, false) => "client_stream",
                    (false, true) => "server_stream",
                    (true, true) => "bidi_stream",
                };
                let method = method.name().to_owned();
                let key = (name.clone(), method.clone());
                found.insert(key, ServedMethod { service: name.clone(), method, kind });
            }
        }
    }
    found.into_values().collect()
}

/// Whether `path` is an RPC of the contract whose request is a stream.
pub(crate) fn has_request_stream(path: &str) -> bool {
    WITH_REQUEST_STREAM.contains(path)
}

/// Whether a call of `path` takes further commands or messages while it runs: its request is a stream, or it opens a
/// session.
pub(crate) fn has_commands(path: &str) -> bool {
    has_request_stream(path) || path == OPEN_SESSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_streams_are_those_of_the_contract() {
        let mut found: Vec<_> = WITH_REQUEST_STREAM.iter().map(String::as_str).collect();
        found.sort_unstable();
        assert_eq!(found, ["/unibus.v1.RoomService/Consume", "/unibus.v1.RoomService/PublishStream"]);
        for path in ["/unibus.v1.RoomService/Publish", "/Consume", "/unibus.v1.RoomService/Subscribe", ""] {
            assert!(!has_request_stream(path), "{path}");
        }
    }

    #[test]
    fn every_served_method_is_there_once() {
        let served = served();
        let kind = |service: &str, method: &str| {
            let mut of_name = served.iter().filter(|served| served.service == service && served.method == method);
            (of_name.next().map(|served| served.kind), of_name.count())
        };
        assert_eq!(kind("unibus.v1.RoomService", "Publish"), (Some("unary"), 0));
        assert_eq!(kind("unibus.v1.RoomService", "Consume"), (Some("bidi_stream"), 0));
        assert_eq!(kind("grpc.health.v1.Health", "Watch"), (Some("server_stream"), 0));
        assert_eq!(kind("grpc.reflection.v1.ServerReflection", "ServerReflectionInfo"), (Some("bidi_stream"), 0));
    }
}
