//! Properties of the RPCs that the contract's descriptor declares.

use std::{collections::HashSet, sync::LazyLock};

use prost::Message;
use prost_types::FileDescriptorSet;

use crate::v1;

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

/// Whether `path` is an RPC of the contract whose request is a stream.
pub(crate) fn has_request_stream(path: &str) -> bool {
    WITH_REQUEST_STREAM.contains(path)
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
}
