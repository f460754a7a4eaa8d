//! Which node is meant: by its name, its id, or its address.

use annals_proto::annals::v1::{Node, StatusReply};

use crate::failure::{Code, Failure};

/// The id of the node that is meant. An id that this answer does not know is left to
/// whoever leads: the node that answered may not have heard of it yet.
pub(super) fn id(status: &StatusReply, named: &str) -> Result<u64, Failure> {
    if let Ok(id) = named.parse() {
        return Ok(id);
    }
    Ok(node(status, named)?.id)
}

/// The member that is meant.
pub(super) fn node<'a>(status: &'a StatusReply, named: &str) -> Result<&'a Node, Failure> {
    let id: Option<u64> = named.parse().ok();
    let is_meant = |node: &&Node| match id {
        Some(id) => node.id == id,
        None => node.name == named || node.address == named,
    };
    let meant: Vec<&Node> = status.nodes.iter().filter(is_meant).collect();
    match meant[..] {
        [node] => Ok(node),
        [] => {
            let known: Vec<String> = status.nodes.iter().map(|node| format!("{} ({})", node.name, node.id)).collect();
            let error = anyhow::anyhow!("there is no node {named}; there are {}", known.join(", "));
            Err(Failure::new(Code::NotFound, error))
        }
        [..] => {
            let ids: Vec<String> = meant.iter().map(|node| node.id.to_string()).collect();
            Err(Failure::usage(format!("{named} is the name of several nodes: say which by id, {}", ids.join(" or "))))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status() -> StatusReply {
        let node = |id, name: &str| Node {
            id,
            name: name.to_owned(),
            address: format!("10.0.0.{id}:2113"),
            ..Node::default()
        };
        StatusReply { nodes: vec![node(1, "a"), node(2, "b"), node(7, "b")], ..StatusReply::default() }
    }

    #[test]
    fn a_node_is_meant_by_name_id_or_address() {
        for named in ["a", "1", "10.0.0.1:2113"] {
            assert_eq!(node(&status(), named).expect("known").id, 1);
            assert_eq!(id(&status(), named).expect("known"), 1);
        }
        assert_eq!(id(&status(), "99").expect("the leader decides"), 99);
    }

    #[test]
    fn a_name_of_two_or_of_nobody_is_refused() {
        let two = format!("{:?}", node(&status(), "b").expect_err("two"));
        assert!(two.contains("by id, 2 or 7"), "{two}");
        let none = format!("{:?}", node(&status(), "x").expect_err("none"));
        assert!(none.contains("there is no node x; there are a (1), b (2), b (7)"), "{none}");
    }
}
