//! Both versions of gRPC reflection. As its protocol requires, an unknown symbol gets an error as an answer, and the
//! stream stays open.
//!
//! The versions have the same messages under different names, so v1alpha uses the answers of v1.

use std::{collections::BTreeMap, pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt};
use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorProto, FileDescriptorSet};
use tonic::{Request, Response, Status, Streaming};
use tonic_reflection::pb::{
    v1::{
        ErrorResponse, ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
        ServerReflectionResponse, ServiceResponse,
        server_reflection_request::MessageRequest,
        server_reflection_response::MessageResponse,
        server_reflection_server::{ServerReflection, ServerReflectionServer},
    },
    v1alpha,
};

use super::status::status;
use crate::error::{Error, Reason};

/// The descriptor files of every service, by file name and by declared symbol.
#[derive(Clone, Debug, Default)]
pub(super) struct Reflection(Arc<Files>);

#[derive(Debug, Default)]
struct Files {
    services: Vec<String>,
    encoded: Vec<Vec<u8>>,
    names: BTreeMap<String, usize>,
    symbols: BTreeMap<String, usize>,
}

impl Reflection {
    /// Makes reflection of the descriptor sets in `sets`.
    ///
    /// # Errors
    /// When a set cannot be decoded.
    pub(super) fn of(sets: &[&[u8]]) -> Result<Self, prost::DecodeError> {
        let mut files = Files::default();
        for set in sets {
            for file in FileDescriptorSet::decode(*set)?.file {
                files.add(&file);
            }
        }
        files.services.sort_unstable();
        Ok(Self(Arc::new(files)))
    }

    pub(super) fn v1(&self) -> ServerReflectionServer<impl ServerReflection> {
        ServerReflectionServer::new(self.clone())
    }

    pub(super) fn v1alpha(
        &self,
    ) -> v1alpha::server_reflection_server::ServerReflectionServer<
        impl v1alpha::server_reflection_server::ServerReflection,
    > {
        v1alpha::server_reflection_server::ServerReflectionServer::new(self.clone())
    }
}

impl Files {
    fn add(&mut self, file: &FileDescriptorProto) {
        if self.names.contains_key(file.name()) {
            return;
        }
        let place = self.encoded.len();
        self.encoded.push(file.encode_to_vec());
        self.names.insert(file.name().to_owned(), place);
        let scope = file.package();
        for message in &file.message_type {
            self.add_message(scope, message, place);
        }
        for declared in &file.enum_type {
            self.add_symbol(within(scope, declared.name()), place);
        }
        for service in &file.service {
            let name = within(scope, service.name());
            for method in &service.method {
                self.add_symbol(within(&name, method.name()), place);
            }
            self.add_symbol(name.clone(), place);
            self.services.push(name);
        }
    }

    fn add_message(&mut self, scope: &str, message: &DescriptorProto, place: usize) {
        let name = within(scope, message.name());
        for nested in &message.nested_type {
            self.add_message(&name, nested, place);
        }
        for declared in &message.enum_type {
            self.add_symbol(within(&name, declared.name()), place);
        }
        for field in &message.field {
            self.add_symbol(within(&name, field.name()), place);
        }
        self.add_symbol(name, place);
    }

    /// The first file that declares a symbol counts: the contract has files of its own for messages of `google.rpc`.
    fn add_symbol(&mut self, name: String, place: usize) {
        self.symbols.entry(name).or_insert(place);
    }

    fn file(&self, place: Option<&usize>) -> MessageResponse {
        match place.and_then(|place| self.encoded.get(*place)) {
            Some(file) => MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
                file_descriptor_proto: vec![file.clone()],
            }),
            None => unknown(),
        }
    }

    fn answer(&self, request: ServerReflectionRequest) -> ServerReflectionResponse {
        let response = match &request.message_request {
            Some(MessageRequest::FileByFilename(name)) => self.file(self.names.get(name)),
            Some(MessageRequest::FileContainingSymbol(name)) => {
                self.file(self.symbols.get(name.strip_prefix('.').unwrap_or(name)))
            }
            Some(MessageRequest::ListServices(_)) => {
                let service = self.services.iter().map(|name| ServiceResponse { name: name.clone() });
                MessageResponse::ListServicesResponse(ListServiceResponse { service: service.collect() })
            }
            Some(MessageRequest::AllExtensionNumbersOfType(name)) if self.symbols.contains_key(name) => {
                MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                    base_type_name: name.clone(),
                    extension_number: Vec::new(),
                })
            }
            // the contract has no extensions
            Some(MessageRequest::AllExtensionNumbersOfType(_) | MessageRequest::FileContainingExtension(_)) => {
                unknown()
            }
            None => MessageResponse::ErrorResponse(ErrorResponse {
                error_code: tonic::Code::InvalidArgument.into(),
                error_message: "message_request: one of its fields must be set".to_owned(),
            }),
        };
        ServerReflectionResponse {
            valid_host: request.host.clone(),
            original_request: Some(request),
            message_response: Some(response),
        }
    }
}

fn within(scope: &str, name: &str) -> String {
    if scope.is_empty() { name.to_owned() } else { format!("{scope}.{name}") }
}

fn unknown() -> MessageResponse {
    MessageResponse::ErrorResponse(ErrorResponse {
        error_code: tonic::Code::NotFound.into(),
        error_message: "the service has no such file or symbol".to_owned(),
    })
}

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl ServerReflection for Reflection {
    type ServerReflectionInfoStream = Answers<ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        requests: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let Self(files) = self.clone();
        let answers = requests.into_inner().map(move |request| request.map(|request| files.answer(request)));
        Ok(Response::new(Box::pin(answers)))
    }
}

#[tonic::async_trait]
impl v1alpha::server_reflection_server::ServerReflection for Reflection {
    type ServerReflectionInfoStream = Answers<v1alpha::ServerReflectionResponse>;

    async fn server_reflection_info(
        &self,
        requests: Request<Streaming<v1alpha::ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let Self(files) = self.clone();
        let answers = requests.into_inner().map(move |request| {
            let request = translated(&request?)?;
            translated(&files.answer(request))
        });
        Ok(Response::new(Box::pin(answers)))
    }
}

/// Converts a message to the same message of the other version.
fn translated<T: Message + Default>(message: &impl Message) -> Result<T, Status> {
    let message = T::decode(&*message.encode_to_vec());
    message.map_err(|error| {
        status(Error::new(Reason::Internal, "the versions of the reflection service differ").because(error))
    })
}
