//! The methods and messages that the service serves, by the descriptors that reflection serves.

use std::{collections::HashMap, sync::Arc};

use prost::Message;
use prost_reflect::{DescriptorError, DescriptorPool};
use prost_types::{FileDescriptorProto, FileDescriptorSet, MethodDescriptorProto, method_options::IdempotencyLevel};

use super::json::MessageType;
use crate::{
    error::{Error, Reason},
    v1,
};

/// The descriptor sets of everything that is served: the contract, health, reflection, and the details of errors.
pub(super) const SERVED_SETS: [&[u8]; 5] = [
    v1::FILE_DESCRIPTOR_SET,
    tonic_health::pb::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1::FILE_DESCRIPTOR_SET,
    tonic_reflection::pb::v1alpha::FILE_DESCRIPTOR_SET,
    // so that tools can show the details of an error
    tonic_types::pb::FILE_DESCRIPTOR_SET,
];

/// What the descriptors say about the served methods. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct ServedTypes(Arc<Types>);

#[derive(Debug)]
struct Types {
    pool: DescriptorPool,
    /// By path.
    methods: HashMap<String, MethodTypes>,
}

/// What the descriptor of one method says.
#[derive(Clone, Debug)]
pub(crate) struct MethodTypes {
    pub request: MessageType,
    pub response: MessageType,
    pub has_request_stream: bool,
    pub has_response_stream: bool,
    /// Whether the method declares that it has no side effects, so that a client may call it with GET.
    pub is_safe: bool,
}

impl ServedTypes {
    /// Reads the descriptors of everything that is served, and those in `others`.
    ///
    /// # Errors
    /// `INTERNAL`, when a set cannot be read.
    pub(crate) fn read(others: &[&[u8]]) -> Result<Self, Error> {
        let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| {
            Error::new(Reason::Internal, "the descriptors of the contract cannot be read").because(error)
        };
        let mut pool = DescriptorPool::new();
        let mut services = Vec::new();
        for set in SERVED_SETS.iter().chain(others) {
            let set = FileDescriptorSet::decode(*set).map_err(|error| unreadable(error.into()))?;
            for file in set.file {
                services.extend(file.service.iter().map(|service| (file.package().to_owned(), service.clone())));
                add(file, &mut pool).map_err(|error| unreadable(error.into()))?;
            }
        }
        // after the last file, because a type knows only the files that were added before it was looked up
        let mut methods = HashMap::new();
        for (package, service) in &services {
            for method in &service.method {
                if let Some(types) = method_types(method, &pool) {
                    methods.insert(format!("/{package}.{}/{}", service.name(), method.name()), types);
                }
            }
        }
        Ok(Self(Arc::new(Types { pool, methods })))
    }

    /// The method at `path`; `None` when nothing serves the path.
    pub(crate) fn method(&self, path: &str) -> Option<&MethodTypes> {
        self.0.methods.get(path)
    }

    /// The message type of this name, such as `google.rpc.ErrorInfo`.
    pub(crate) fn message(&self, name: &str) -> Option<MessageType> {
        self.0.pool.get_message_by_name(name).map(MessageType::new)
    }
}

/// Adds a file, unless another file has declared the same messages: the sets name some files differently.
fn add(file: FileDescriptorProto, pool: &mut DescriptorPool) -> Result<(), DescriptorError> {
    let is_declared = |name: &str| pool.get_message_by_name(&format!("{}.{name}", file.package())).is_some();
    if file.message_type.iter().any(|message| is_declared(message.name())) {
        return Ok(());
    }
    pool.add_file_descriptor_proto(file)
}

fn method_types(method: &MethodDescriptorProto, pool: &DescriptorPool) -> Option<MethodTypes> {
    let message = |name: &str| pool.get_message_by_name(name.trim_start_matches('.')).map(MessageType::new);
    let level = method.options.as_ref().map(prost_types::MethodOptions::idempotency_level);
    Some(MethodTypes {
        request: message(method.input_type())?,
        response: message(method.output_type())?,
        has_request_stream: method.client_streaming(),
        has_response_stream: method.server_streaming(),
        is_safe: level == Some(IdempotencyLevel::NoSideEffects),
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn every_served_method_has_its_types_and_reading_has_no_side_effects() {
        // Goal: a method that reads can be called with GET, and no other method can. Method: the names of the methods that
        // say so, of all methods that are served.
        let types = ServedTypes::read(&[]).unwrap();
        let mut safe = Vec::new();
        for served in super::super::served() {
            let path = format!("/{}/{}", served.service, served.method);
            let method = types.method(&path).unwrap();
            if method.is_safe {
                assert!(!method.has_request_stream && !method.has_response_stream, "{path}");
                safe.push(served.method);
            }
        }
        assert_eq!(safe, ["GetRoom", "History", "ListMembers", "ListRooms", "ListSubscribers"]);
        for name in ["google.rpc.ErrorInfo", "google.rpc.BadRequest", "google.rpc.RetryInfo", "google.rpc.Status"] {
            assert!(types.message(name).is_some(), "{name}");
        }
    }
}
