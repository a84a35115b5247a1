//! `proto/openapi.json` is what the contract says, for tools that read it.
//!
//! With `UNIBUS_WRITE_DOCS=1` the document is written instead of compared.

use std::{collections::BTreeSet, env, fs};

use prost_reflect::{
    Cardinality, DescriptorPool, EnumDescriptor, FieldDescriptor, Kind, MessageDescriptor, MethodDescriptor,
};
use serde_json::{Map, Value, json};
use unibus::v1;

const PATH: &str = "proto/openapi.json";
/// What the document has beside the RPCs.
const BASE: &str = include_str!("openapi.base.json");

/// Writes the schemas of the messages that the RPCs need.
#[derive(Default)]
struct Schemas {
    done: BTreeSet<String>,
    schemas: Map<String, Value>,
}

impl Schemas {
    fn message(&mut self, message: &MessageDescriptor) -> Value {
        if let Some(known) = well_known(message.full_name()) {
            return known;
        }
        if self.done.insert(message.full_name().to_owned()) {
            let mut properties = Map::new();
            for field in message.fields() {
                let mut schema = self.field(&field);
                let comment = comment(field.parent_message().parent_file().file_descriptor_proto(), field.path());
                if !comment.is_empty() {
                    // beside a reference too, which OpenAPI 3.1 allows
                    schema["description"] = comment.into();
                }
                properties.insert(field.json_name().to_owned(), schema);
            }
            let schema = described(
                json!({ "type": "object", "properties": properties }),
                &comment(message.parent_file().file_descriptor_proto(), message.path()),
            );
            self.schemas.insert(message.full_name().to_owned(), schema);
        }
        reference(message.full_name())
    }

    fn choices(&mut self, choices: &EnumDescriptor) -> Value {
        if self.done.insert(choices.full_name().to_owned()) {
            let names: Vec<_> = choices.values().map(|value| value.name().to_owned()).collect();
            let schema = described(
                json!({ "type": "string", "enum": names }),
                &comment(choices.parent_file().file_descriptor_proto(), choices.path()),
            );
            self.schemas.insert(choices.full_name().to_owned(), schema);
        }
        reference(choices.full_name())
    }

    fn field(&mut self, field: &FieldDescriptor) -> Value {
        if field.is_map() {
            let Kind::Message(entry) = field.kind() else { panic!("a map without entries") };
            let values = self.kind(&entry.map_entry_value_field().kind());
            return json!({ "type": "object", "additionalProperties": values });
        }
        let schema = self.kind(&field.kind());
        match field.cardinality() {
            Cardinality::Repeated => json!({ "type": "array", "items": schema }),
            Cardinality::Optional | Cardinality::Required => schema,
        }
    }

    /// The schema of a value in proto3 JSON.
    fn kind(&mut self, kind: &Kind) -> Value {
        match kind {
            Kind::Double | Kind::Float => json!({ "type": "number" }),
            Kind::Int32 | Kind::Sint32 | Kind::Sfixed32 => json!({ "type": "integer", "format": "int32" }),
            Kind::Uint32 | Kind::Fixed32 => json!({ "type": "integer", "minimum": 0, "maximum": u32::MAX }),
            Kind::Int64 | Kind::Sint64 | Kind::Sfixed64 => json!({ "type": ["string", "integer"], "format": "int64" }),
            Kind::Uint64 | Kind::Fixed64 => json!({ "type": ["string", "integer"], "format": "uint64" }),
            Kind::Bool => json!({ "type": "boolean" }),
            Kind::String => json!({ "type": "string" }),
            Kind::Bytes => json!({ "type": "string", "contentEncoding": "base64" }),
            Kind::Message(message) => self.message(message),
            Kind::Enum(choices) => self.choices(choices),
        }
    }
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/schemas/{name}") })
}

fn described(mut schema: Value, comment: &str) -> Value {
    if !comment.is_empty() {
        schema["description"] = comment.into();
    }
    schema
}

/// Types with a JSON form of their own (proto3 JSON).
fn well_known(name: &str) -> Option<Value> {
    Some(match name {
        "google.protobuf.Timestamp" => json!({ "type": "string", "format": "date-time" }),
        "google.protobuf.Duration" => json!({ "type": "string", "examples": ["3.5s"] }),
        "google.protobuf.FieldMask" => json!({ "type": "string", "examples": ["labels,retention.maxAge"] }),
        "google.protobuf.Empty" => json!({ "type": "object" }),
        "google.protobuf.Any" => json!({
            "type": "object",
            "required": ["@type"],
            "properties": { "@type": { "type": "string" } },
        }),
        _ => return None,
    })
}

/// The comment before the element at `path` of a file.
fn comment(file: &prost_types::FileDescriptorProto, path: &[i32]) -> String {
    let locations = file.source_code_info.iter().flat_map(|info| &info.location);
    let found = locations.into_iter().find(|location| location.path == path);
    let text = found.map_or("", |location| location.leading_comments());
    text.lines().map(str::trim).collect::<Vec<_>>().join("\n").trim().to_owned()
}

fn operations(method: &MethodDescriptor, schemas: &mut Schemas) -> Value {
    let text = comment(method.parent_file().file_descriptor_proto(), method.path());
    let (summary, description) = text.split_once("\n\n").unwrap_or((&text, ""));
    let is_stream = method.is_client_streaming() || method.is_server_streaming();
    let kind = if is_stream { "application/connect+json" } else { "application/json" };
    let (input, output) = (schemas.message(&method.input()), schemas.message(&method.output()));
    let mut answer = json!({ "description": "The response.", "content": { kind: { "schema": output } } });
    if method.is_server_streaming() {
        answer["description"] = "A stream of enveloped responses, of which the last holds the status.".into();
    }
    let operation = json!({
        "tags": ["unibus.v1.RoomService"],
        "operationId": method.name(),
        "summary": summary.replace('\n', " "),
        "description": description,
        "responses": { "200": answer, "default": { "$ref": "#/components/responses/ConnectError" } },
    });
    let mut post = operation.clone();
    post["requestBody"] = json!({ "required": true, "content": { kind: { "schema": input } } });
    if method.is_client_streaming() {
        let note = "The request is a stream of enveloped messages, which needs HTTP/2.";
        post["description"] = format!("{description}\n\n{note}").trim().into();
    }
    let mut operations = json!({ "post": post });
    let options = method.method_descriptor_proto().options.clone().unwrap_or_default();
    if options.idempotency_level() == prost_types::method_options::IdempotencyLevel::NoSideEffects && !is_stream {
        let parameter = |name: &str, description: &str, required: bool, schema: Value| json!({ "name": name, "in": "query", "description": description, "required": required, "schema": schema });
        let mut get = operation;
        get["operationId"] = format!("{}ByGet", method.name()).into();
        get["parameters"] = json!([
            parameter("connect", "The version of the protocol.", false, json!({ "const": "v1" })),
            parameter("encoding", "The encoding of the message.", true, json!({ "enum": ["json", "proto"] })),
            parameter("message", "The request.", true, json!({ "type": "string" })),
            parameter("base64", "1: the message is URL-safe base64.", false, json!({ "enum": ["0", "1"] })),
        ]);
        operations["get"] = get;
    }
    operations
}

fn document() -> Value {
    let mut document: Value = serde_json::from_str(BASE).expect("JSON");
    let types = DescriptorPool::decode(v1::FILE_DESCRIPTOR_SET).expect("the descriptors of the contract");
    let mut schemas = Schemas::default();
    for service in types.services().filter(|service| service.package_name() == "unibus.v1") {
        for method in service.methods() {
            let path = format!("/{}/{}", service.full_name(), method.name());
            document["paths"][path] = operations(&method, &mut schemas);
        }
    }
    for (name, schema) in schemas.schemas {
        document["components"]["schemas"][name] = schema;
    }
    document
}

#[test]
fn the_openapi_document_is_that_of_the_contract() {
    // Goal: whoever reads the document reads the contract. Method: make it from the descriptors, and compare; every
    // reference in it leads somewhere, and every RPC is there.
    let document = document();
    let text = serde_json::to_string_pretty(&document).expect("JSON") + "\n";
    if env::var_os("UNIBUS_WRITE_DOCS").is_some() {
        fs::write(PATH, &text).expect("a writable document");
    }
    assert!(fs::read_to_string(PATH).expect("a document") == text, "{PATH} is old: run with UNIBUS_WRITE_DOCS=1");
    let paths = document["paths"].as_object().expect("paths");
    assert!(paths.len() >= 24, "{}", paths.len());
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(references.len() > 100, "{}", references.len());
    for reference in references {
        let pointer = reference.strip_prefix('#').expect("a reference within the document");
        assert!(document.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

fn collect_references<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
    match value {
        Value::Object(fields) => {
            references.extend(fields.get("$ref").and_then(Value::as_str));
            fields.values().for_each(|value| collect_references(value, references));
        }
        Value::Array(values) => values.iter().for_each(|value| collect_references(value, references)),
        _ => {}
    }
}
