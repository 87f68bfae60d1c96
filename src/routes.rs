//! The HTTP API as one table: its endpoints, and who may call each.
//!
//! ```text
//! Worker   access::authorize -- is_open_to_tickets --+
//!          cors::preflight ---- methods -------------+--> ROUTES
//! object   endpoints::respond - find ----------------+
//! ```
//!
//! The Worker turns away whoever may not call the endpoint. The object runs the endpoint's handler,
//! or answers 404 or 405.

/// Who may call an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenTo {
    /// Operators only.
    Operators,
    /// Operators, and holders of a ticket, who see what their ticket allows.
    TicketHolders,
}

/// What an endpoint does. The object has one handler for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Init,
    Status,
    Metrics,
    WaitForInitialPoll,
    Poll,
    WebSocket,
    Changes,
    ListClients,
    RegisterClient,
    DeregisterClient,
}

/// One row of the table.
#[derive(Debug)]
pub(crate) struct Route {
    pub(crate) method: &'static str,
    /// `{id}` at the end stands for one path segment that is not empty.
    pub(crate) path: &'static str,
    pub(crate) open_to: OpenTo,
    pub(crate) endpoint: Endpoint,
}

/// Every endpoint.
#[rustfmt::skip]
pub(crate) static ROUTES: [Route; 10] = {
    use OpenTo::{Operators, TicketHolders};
    [
        route("GET",    "/status",                Operators,     Endpoint::Status),
        route("GET",    "/metrics",               Operators,     Endpoint::Metrics),
        route("GET",    "/wait-for-initial-poll", Operators,     Endpoint::WaitForInitialPoll),
        route("GET",    "/ws",                    TicketHolders, Endpoint::WebSocket),
        route("GET",    "/changes",               TicketHolders, Endpoint::Changes),
        route("GET",    "/clients",               Operators,     Endpoint::ListClients),
        route("POST",   "/clients",               Operators,     Endpoint::RegisterClient),
        route("DELETE", "/clients/{id}",          Operators,     Endpoint::DeregisterClient),
        route("POST",   "/init",                  Operators,     Endpoint::Init),
        route("POST",   "/poll",                  Operators,     Endpoint::Poll),
    ]
};

const fn route(
    method: &'static str,
    path: &'static str,
    open_to: OpenTo,
    endpoint: Endpoint,
) -> Route {
    Route {
        method,
        path,
        open_to,
        endpoint,
    }
}

/// A request's route.
#[derive(Debug)]
pub(crate) struct Match<'a> {
    pub(crate) route: &'static Route,
    /// The segment in the place of `{id}`, as it was sent; empty for a path without one.
    pub(crate) id: &'a str,
}

/// Why a request has no route.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoRoute {
    #[error("there is no such endpoint")]
    NotFound,
    /// `allow`: the methods of the path, as the header `Allow` lists them.
    #[error("this endpoint only supports {allow}")]
    MethodNotAllowed { allow: String },
}

/// Finds the route of a request. `method` is case-sensitive, as HTTP has it (RFC 9110, section 9.1).
pub(crate) fn find<'a>(method: &str, path: &'a str) -> Result<Match<'a>, NoRoute> {
    let mut allowed = Vec::new();
    for route in &ROUTES {
        let Some(id) = route.id_in(path) else {
            continue;
        };
        if route.method == method {
            return Ok(Match { route, id });
        }
        allowed.push(route.method);
    }
    if allowed.is_empty() {
        return Err(NoRoute::NotFound);
    }
    let allow = allowed.join(", ");
    Err(NoRoute::MethodNotAllowed { allow })
}

/// Whether a ticket is enough to call the endpoint.
pub(crate) fn is_open_to_tickets(method: &str, path: &str) -> bool {
    find(method, path).is_ok_and(|found| found.route.open_to == OpenTo::TicketHolders)
}

/// Every method that some endpoint supports, separated by commas.
pub(crate) fn methods() -> String {
    let mut methods: Vec<&str> = Vec::new();
    for route in &ROUTES {
        if !methods.contains(&route.method) {
            methods.push(route.method);
        }
    }
    methods.join(", ")
}

impl Route {
    /// The segment in the place of `{id}`; `None` when the route does not match the path.
    fn id_in<'a>(&self, path: &'a str) -> Option<&'a str> {
        match self.path.strip_suffix("{id}") {
            Some(prefix) => path
                .strip_prefix(prefix)
                .filter(|id| !id.is_empty() && !id.contains('/')),
            None => (self.path == path).then_some(""),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    fn endpoint(method: &str, path: &str) -> Result<Endpoint, NoRoute> {
        find(method, path).map(|found| found.route.endpoint)
    }

    fn not_allowed(allow: &str) -> NoRoute {
        NoRoute::MethodNotAllowed {
            allow: allow.to_owned(),
        }
    }

    #[test]
    fn a_request_is_routed_by_method_and_whole_path() {
        assert_eq!(endpoint("POST", "/init"), Ok(Endpoint::Init));
        assert_eq!(endpoint("GET", "/clients"), Ok(Endpoint::ListClients));
        assert_eq!(endpoint("POST", "/clients"), Ok(Endpoint::RegisterClient));
        for path in [
            "",
            "/",
            "/STATUS",
            "/status/",
            "//status",
            "/%73tatus",
            "/wss",
        ] {
            assert_eq!(endpoint("GET", path), Err(NoRoute::NotFound), "{path}");
        }
    }

    #[test]
    fn an_id_is_one_path_segment() {
        let found = find("DELETE", "/clients/web-7").unwrap();
        assert_eq!(found.route.endpoint, Endpoint::DeregisterClient);
        assert_eq!(found.id, "web-7");
        for path in ["/clients/", "/clients/a/b", "/clients//"] {
            assert_eq!(endpoint("DELETE", path), Err(NoRoute::NotFound), "{path}");
        }
    }

    #[test]
    fn another_method_is_answered_with_those_that_the_path_supports() {
        assert_eq!(endpoint("GET", "/init"), Err(not_allowed("POST")));
        assert_eq!(
            endpoint("DELETE", "/clients"),
            Err(not_allowed("GET, POST"))
        );
        assert_eq!(endpoint("GET", "/clients/x"), Err(not_allowed("DELETE")));
        for method in ["HEAD", "OPTIONS", "PATCH", "get", "BREW", ""] {
            assert_eq!(
                endpoint(method, "/status"),
                Err(not_allowed("GET")),
                "{method}"
            );
        }
    }

    #[test]
    fn a_ticket_opens_the_web_socket_and_the_changes_and_nothing_else() {
        let open = ROUTES
            .iter()
            .filter(|route| is_open_to_tickets(route.method, route.path));
        let open: Vec<Endpoint> = open.map(|route| route.endpoint).collect();
        assert_eq!(open, [Endpoint::WebSocket, Endpoint::Changes]);
        assert!(!is_open_to_tickets("POST", "/ws"));
        assert!(!is_open_to_tickets("GET", "/nothing"));
    }

    #[test]
    fn every_route_is_found_by_its_own_method_and_path() {
        for route in &ROUTES {
            assert_eq!(endpoint(route.method, route.path), Ok(route.endpoint));
        }
        assert_eq!(methods(), "GET, POST, DELETE");
    }

    /// The endpoints that `text` names, such as `GET /clients` and `DELETE /clients/<id>`.
    fn named_in(text: &str) -> BTreeSet<String> {
        let mut named = BTreeSet::new();
        let is_part = |c: char| c.is_ascii_alphanumeric() || "/-_<>{}".contains(c);
        for method in ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"] {
            for rest in text.split(&format!("{method} /")).skip(1) {
                let path: String = rest.chars().take_while(|&c| is_part(c)).collect();
                let path = path.replace('<', "{").replace('>', "}");
                named.insert(format!("{method} /{path}"));
            }
        }
        named
    }

    fn table() -> BTreeSet<String> {
        let rows = ROUTES.iter();
        rows.map(|route| format!("{} {}", route.method, route.path))
            .collect()
    }

    #[test]
    fn every_endpoint_is_documented() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut named = named_in(&std::fs::read_to_string(root.join("README.md")).unwrap());
        for entry in std::fs::read_dir(root.join("docs")).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|extension| extension == "md") {
                named.append(&mut named_in(&std::fs::read_to_string(path).unwrap()));
            }
        }
        let missing: Vec<_> = table().difference(&named).cloned().collect();
        assert_eq!(missing, Vec::<String>::new());
    }

    #[test]
    fn every_endpoint_in_the_table_of_the_readme_exists() {
        let readme = include_str!("../README.md");
        let rows = readme.lines().filter_map(|line| line.strip_prefix("| `"));
        let documented: BTreeSet<String> = rows
            .filter_map(|row| row.split('`').next())
            .flat_map(named_in)
            .collect();
        assert!(documented.len() >= 7, "{documented:?}");
        let unknown: Vec<_> = documented.difference(&table()).cloned().collect();
        assert_eq!(unknown, Vec::<String>::new());
    }
}
