//! Holds the wire contract in place.
//!
//! `contract.txt` states, line by line, every rpc, message, field and enum value
//! that the official clients rely on. This test renders the compiled descriptors
//! in the same form and compares the two as sets, so a missing, renumbered,
//! retyped or additional element fails with its own line. Our own packages,
//! `annals.*`, are not part of that contract and are passed over.

use std::collections::BTreeSet;

use prost::Message as _;
use prost_types::field_descriptor_proto::{Label, Type};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet, ServiceDescriptorProto,
};

#[test]
fn descriptors_match_the_wire_contract() {
    let set = FileDescriptorSet::decode(annals_proto::FILE_DESCRIPTOR_SET).expect("the build script encoded it");
    let contract: BTreeSet<String> = include_str!("contract.txt")
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect();
    let compiled: BTreeSet<String> = render(&set).into_iter().collect();

    let difference: Vec<String> = contract
        .difference(&compiled)
        .map(|line| format!("- {line}"))
        .chain(compiled.difference(&contract).map(|line| format!("+ {line}")))
        .collect();
    assert!(
        difference.is_empty(),
        "proto/ differs from contract.txt (- only in the contract, + only in proto/):\n{}",
        difference.join("\n")
    );
}

/// Both sides are sets; a contract that was truncated or emptied by accident
/// together with the protos would otherwise pass unnoticed.
#[test]
fn contract_states_every_element_once() {
    let lines: Vec<&str> =
        include_str!("contract.txt").lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
    let count = |kind: &str| lines.iter().filter(|line| line.starts_with(kind)).count();

    assert_eq!(lines.iter().collect::<BTreeSet<_>>().len(), lines.len(), "duplicate lines");
    assert_eq!((count("rpc "), count("message "), count("field "), count("enum ")), (44, 195, 511, 78));
}

/// The lines of `contract.txt` that the foreign packages of `set` amount to.
fn render(set: &FileDescriptorSet) -> Vec<String> {
    let mut lines = Vec::new();
    for file in &set.file {
        let package = file.package();
        if package == "google.protobuf" || package.starts_with("annals.") {
            continue;
        }
        for service in &file.service {
            render_service(package, service, &mut lines);
        }
        for message in &file.message_type {
            render_message(package, message, &mut lines);
        }
        for enumeration in &file.enum_type {
            render_enum(package, enumeration, &mut lines);
        }
    }
    lines
}

fn render_service(package: &str, service: &ServiceDescriptorProto, lines: &mut Vec<String>) {
    for method in &service.method {
        let shape = match (method.client_streaming(), method.server_streaming()) {
            (false, false) => "unary",
            (false, true) => "server-stream",
            (true, false) => "client-stream",
            (true, true) => "bidi-stream",
        };
        lines.push(format!(
            "rpc {package}.{} {} {} {} {shape}",
            service.name(),
            method.name(),
            absolute(method.input_type()),
            absolute(method.output_type()),
        ));
    }
}

fn render_message(scope: &str, message: &DescriptorProto, lines: &mut Vec<String>) {
    let name = format!("{scope}.{}", message.name());
    lines.push(format!("message {name}"));
    for field in &message.field {
        let (kind, label, oneof) = describe_field(message, field);
        lines.push(format!("field {name} {} {} {kind} {label} {oneof}", field.number(), field.name()));
    }
    for nested in message.nested_type.iter().filter(|nested| !is_map_entry(nested)) {
        render_message(&name, nested, lines);
    }
    for enumeration in &message.enum_type {
        render_enum(&name, enumeration, lines);
    }
}

fn render_enum(scope: &str, enumeration: &EnumDescriptorProto, lines: &mut Vec<String>) {
    for value in &enumeration.value {
        lines.push(format!("enum {scope}.{} {} {}", enumeration.name(), value.number(), value.name()));
    }
}

/// Type, label and oneof of a field, as columns of `contract.txt`.
fn describe_field(message: &DescriptorProto, field: &FieldDescriptorProto) -> (String, &'static str, String) {
    let none = || "-".to_owned();
    let entry = message
        .nested_type
        .iter()
        .find(|nested| is_map_entry(nested) && field.type_name().ends_with(&format!(".{}", nested.name())));
    if let Some(entry) = entry {
        let [key, value] = &entry.field[..] else {
            panic!("map entry {} has {} fields", entry.name(), entry.field.len());
        };
        return (format!("{},{}", type_name(key), type_name(value)), "map", none());
    }

    let kind = type_name(field);
    if field.label() == Label::Repeated {
        return (kind, "repeated", none());
    }
    // An `optional` field sits in a oneof of its own, which the compiler made up.
    if field.proto3_optional() {
        return (kind, "optional", none());
    }
    if let Some(index) = field.oneof_index {
        let index = usize::try_from(index).expect("oneof indexes count from 0");
        return (kind, "oneof", message.oneof_decl[index].name().to_owned());
    }
    let label = if field.r#type() == Type::Message { "singular" } else { "implicit" };
    (kind, label, none())
}

/// A message or enum by its full name, a scalar by its protobuf keyword.
fn type_name(field: &FieldDescriptorProto) -> String {
    match field.r#type() {
        Type::Message | Type::Enum | Type::Group => absolute(field.type_name()).to_owned(),
        scalar => scalar.as_str_name().trim_start_matches("TYPE_").to_lowercase(),
    }
}

/// Descriptors mark full names with a leading dot.
fn absolute(name: &str) -> &str {
    name.strip_prefix('.').expect("the compiler resolves every name")
}

fn is_map_entry(message: &DescriptorProto) -> bool {
    message.options.as_ref().is_some_and(|options| options.map_entry())
}
