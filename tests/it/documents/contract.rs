//! The comments of the contract are true: the roles that they require, and the statuses that they list.

use std::collections::BTreeSet;

use prost::Message;
use prost_types::{DescriptorProto, FileDescriptorSet};
use unibus::{Reason, v1};

use crate::access::table;

const SECURITY: &str = include_str!("../../../docs/security.md");

/// Field numbers of `FileDescriptorProto.service` and `ServiceDescriptorProto.method`: parts of the path of a comment.
const SERVICE: i32 = 6;
const METHOD: i32 = 2;

/// The comments of the services (no RPC) and of their RPCs.
fn comments() -> Vec<(Option<String>, String)> {
    let descriptors = FileDescriptorSet::decode(v1::FILE_DESCRIPTOR_SET).unwrap();
    let files = descriptors.file.iter().filter(|file| file.package() == "unibus.v1");
    let comments = files.flat_map(|file| {
        let locations = file.source_code_info.iter().flat_map(|info| &info.location);
        locations.filter_map(|location| {
            let rpc = match location.path[..] {
                [SERVICE, _] => None,
                [SERVICE, service, METHOD, method] => {
                    let service = &file.service[usize::try_from(service).unwrap()];
                    Some(service.method[usize::try_from(method).unwrap()].name().to_owned())
                }
                _ => return None,
            };
            Some((rpc, location.leading_comments().to_owned()))
        })
    });
    comments.collect()
}

/// The lines of the form `- CODE REASON: meaning`.
fn statuses(comment: &str) -> impl Iterator<Item = (&str, &str)> {
    let is_name =
        |text: &str| text.chars().all(|c| c.is_ascii_uppercase() || c == '_') && text.contains(char::is_alphabetic);
    let lines = comment.lines().filter_map(|line| line.trim().strip_prefix("- ")?.split_once(':'));
    lines
        .filter_map(move |(status, _)| status.split_once(' ').filter(|(code, reason)| is_name(code) && is_name(reason)))
}

/// The messages of the package `google.rpc`.
fn google_rpc(descriptors: &[u8]) -> Vec<DescriptorProto> {
    let files = FileDescriptorSet::decode(descriptors).unwrap().file.into_iter();
    files.filter(|file| file.package() == "google.rpc").flat_map(|file| file.message_type).collect()
}

/// Asserts that every field of the shipped message is one of the original.
fn assert_same_wire(shipped: &DescriptorProto, original: &DescriptorProto) {
    let fields = |message: &DescriptorProto| -> BTreeSet<_> {
        let fields = message.field.iter();
        let fields = fields.map(|field| (field.number(), field.name().to_owned(), field.r#type(), field.label()));
        fields.collect()
    };
    let others: Vec<_> = fields(shipped).difference(&fields(original)).cloned().collect();
    assert!(others.is_empty(), "{}: {others:?}", shipped.name());
    for nested in &shipped.nested_type {
        let of_original = original.nested_type.iter().find(|found| found.name() == nested.name());
        assert_same_wire(nested, of_original.unwrap_or_else(|| panic!("{} in {}", nested.name(), shipped.name())));
    }
}

#[test]
fn the_shipped_messages_of_google_rpc_are_those_of_the_package() {
    // Goal: a client reads the details of an error with the files beside the contract as with any library. Method: compare each
    // field that is shipped, by number, name and type, with the package as a library has it; a status and the details that
    // the service sends are among them.
    let original = google_rpc(tonic_types::pb::FILE_DESCRIPTOR_SET);
    let mut shipped = Vec::new();
    for message in google_rpc(v1::FILE_DESCRIPTOR_SET) {
        let found = original.iter().find(|found| found.name() == message.name()).expect("a message of the package");
        assert_same_wire(&message, found);
        shipped.push(message.name().to_owned());
    }
    shipped.sort_unstable();
    assert_eq!(shipped, ["BadRequest", "ErrorInfo", "RetryInfo", "Status"]);
}

#[test]
fn every_call_names_the_role_that_it_requires() {
    // Goal: nobody asks for a larger role than a call needs, or is refused with the one that the contract names. Method:
    // compare the contract with the table that the test of access tries.
    let mut seen = 0;
    for (rpc, comment) in comments() {
        let Some(rpc) = rpc else { continue };
        let required = comment.lines().filter_map(|line| line.trim().strip_prefix("Requires: "));
        let required: Vec<_> = required.map(|line| line.split(['.', ',']).next().expect("a role")).collect();
        assert_eq!(required, [table::least_role(&rpc)], "{rpc}");
        seen += 1;
    }
    assert!(seen >= 20, "{seen}");
}

#[test]
fn every_call_is_in_the_table_of_roles() {
    // Goal: a reader of the page on security finds every call, in the row of the least role that may make it. Method: search
    // the section for each RPC of the contract.
    let (_, section) = SECURITY.split_once("\n## Membership\n").expect("a section");
    let section = section.split("\n## ").next().expect("a section");
    for rpc in comments().into_iter().filter_map(|(rpc, _)| rpc) {
        let begin = match table::least_role(&rpc) {
            "none" => "Every authenticated caller may call ".to_owned(),
            role => format!("| {role} | "),
        };
        let (_, rest) = section.split_once(&begin).unwrap_or_else(|| panic!("no {begin:?}"));
        // a row is one line, and the sentence may be two
        let place: Vec<_> = rest.lines().take(if begin.starts_with('|') { 1 } else { 2 }).collect();
        assert!(place.join("\n").contains(&format!("`{rpc}`")), "{rpc} is not after {begin:?}");
    }
}

#[test]
fn the_statuses_of_the_contract_are_those_of_the_closed_list() {
    // Goal: no status is invented, missing or paired with another code. Method: compare each status line with the list, and
    // the list with all status lines.
    let mut named = BTreeSet::new();
    for (rpc, comment) in comments() {
        let mut count = 0;
        for (code, reason) in statuses(&comment) {
            let known = Reason::ALL.iter().find(|known| known.name() == reason);
            assert_eq!(known.map(|known| known.code().name()), Some(code), "{rpc:?}: {code} {reason}");
            named.insert(reason.to_owned());
            count += 1;
        }
        assert!(count > 0, "{rpc:?} lists no status");
    }
    // health answers it, which is not of this contract
    let unnamed = Reason::ALL.iter().map(|reason| reason.name()).filter(|reason| !named.contains(*reason));
    assert_eq!(unnamed.collect::<Vec<_>>(), ["SERVICE_UNKNOWN"]);
}
