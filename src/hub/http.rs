//! Requests to the hub: how they follow redirects, who gets the token, and what a refusal means.

use std::time::Duration;

use ureq::http::{Response, StatusCode, header};
use ureq::{Agent, Body};

use super::{Hub, HubId};
use crate::{Error, Result};

/// How long a connection, or one read from it, may take before it is given up.
const PATIENCE: Duration = Duration::from_secs(60);
const MAX_REDIRECTS: usize = 10;

/// HEAD asks for the headers alone; GET may ask for a range of bytes.
#[derive(Clone, Copy)]
pub(super) enum Method {
    Head,
    Get { range: Option<(u64, Option<u64>)> },
}

pub(super) struct Client<'a> {
    hub: &'a Hub,
    id: &'a HubId,
    agent: Agent,
}

impl<'a> Client<'a> {
    pub(super) fn new(hub: &'a Hub, id: &'a HubId) -> Self {
        let config = Agent::config_builder()
            // Redirects are followed here: the token must not go to other hosts.
            .max_redirects(0)
            .http_status_as_error(false)
            .user_agent(concat!("selfreward/", env!("CARGO_PKG_VERSION")))
            .timeout_connect(Some(PATIENCE))
            .timeout_per_read(Some(PATIENCE))
            .timeout_recv_response(Some(PATIENCE));
        Self { hub, id, agent: config.build().into() }
    }

    /// Sends a request to `url` and follows its redirects, until `enough` says that the headers of a redirect will do.
    ///
    /// # Errors
    /// There is no connection, or a redirect leads nowhere. A status that refuses is no error here; see
    /// [`Client::refusal`].
    pub(super) fn send(
        &self,
        method: Method,
        url: &str,
        enough: impl Fn(&Response<Body>) -> bool,
    ) -> Result<Response<Body>> {
        let mut url = url.to_owned();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = match method {
                Method::Head => self.agent.head(&url),
                Method::Get { .. } => self.agent.get(&url),
            };
            // The sizes and checksums that the hub names are those of the unpacked bytes.
            request = request.header(header::ACCEPT_ENCODING, "identity");
            if let Method::Get { range: Some((from, to)) } = method {
                let to = to.map_or(String::new(), |to| to.to_string());
                request = request.header(header::RANGE, format!("bytes={from}-{to}"));
            }
            if let Some(token) = self.hub.token.as_ref().filter(|_| origin(&url) == origin(&self.hub.endpoint)) {
                request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
            }
            let response = request.call().map_err(|error| self.unreachable(&url, &error))?;
            let location = response.headers().get(header::LOCATION).and_then(|to| to.to_str().ok());
            match location.filter(|_| response.status().is_redirection()) {
                Some(to) if !enough(&response) => url = follow(&url, to).map_err(|what| self.error(what))?,
                _ => return Ok(response),
            }
        }
        Err(self.error(format!("{} redirects without end", shown(&url))))
    }

    /// An error that names the model and says `what` went wrong.
    pub(super) fn error(&self, what: impl std::fmt::Display) -> Error {
        Error::Hub(format!("{}: {what}", self.id))
    }

    fn unreachable(&self, url: &str, error: &ureq::Error) -> Error {
        let hint = "check the network and HF_ENDPOINT; models in the cache need neither";
        self.error(format!("{} cannot be reached: {error}; {hint}", origin(url)))
    }

    /// The error for a status that refuses `what`, with the likely reason.
    pub(super) fn refusal(&self, what: &str, response: &Response<Body>) -> Error {
        let repo = &self.id.repo;
        let (status, endpoint) = (response.status(), &self.hub.endpoint);
        let code = response.headers().get("x-error-code").and_then(|code| code.to_str().ok()).unwrap_or_default();
        let token = match self.hub.token {
            Some(_) => "the token in use may be wrong or lack the right to it",
            None => "give a token that may read it in HF_TOKEN, or write one by `hf auth login`",
        };
        let reason = match status {
            _ if code == "GatedRepo" => {
                format!("its owner wants terms to be accepted first, at {endpoint}/{repo}; then {token}")
            }
            StatusCode::UNAUTHORIZED => {
                format!(
                    "there is no such model, or it is private or gated: check the name at {endpoint}/{repo}, or {token}"
                )
            }
            StatusCode::FORBIDDEN => {
                format!("it is gated or private: ask for access at {endpoint}/{repo}; then {token}")
            }
            StatusCode::NOT_FOUND if code == "RevisionNotFound" => {
                format!("it has no revision {}; main is the usual one", self.id.revision)
            }
            StatusCode::NOT_FOUND => {
                "there is no such model or revision; check the spelling (ORG/NAME@REVISION)".into()
            }
            StatusCode::TOO_MANY_REQUESTS => "too many requests; wait some minutes, or use a token".into(),
            status if status.is_server_error() => "the hub has trouble; try again later".into(),
            _ => "an answer that was not expected".into(),
        };
        self.error(format!("{endpoint} answers {} to {what}: {reason}", status.as_u16()))
    }
}

/// The part `scheme://host:port` of a URL.
fn origin(url: &str) -> String {
    let start = url.find("://").map_or(0, |at| at + 3);
    let end = url[start..].find(['/', '?', '#']).map_or(url.len(), |at| start + at);
    url[..end].to_ascii_lowercase()
}

/// The URL without its query, which may hold a signature.
pub(super) fn shown(url: &str) -> &str {
    url.split('?').next().unwrap_or_default()
}

/// The URL to which a redirect of `url` leads.
fn follow(url: &str, location: &str) -> std::result::Result<String, String> {
    let secure = origin(url).starts_with("https://");
    let target = if location.starts_with("//") {
        format!("{}:{location}", if secure { "https" } else { "http" })
    } else if location.starts_with('/') {
        origin(url) + location
    } else if location.contains("://") {
        location.to_owned()
    } else {
        let folder = shown(url).rfind('/').unwrap_or_default();
        format!("{}/{location}", &url[..folder])
    };
    let to = origin(&target);
    if to.starts_with("https://") || (!secure && to.starts_with("http://")) {
        Ok(target)
    } else {
        Err(format!("{} redirects to {}, which is not followed", shown(url), shown(&target)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn redirects_lead_where_the_standard_says() {
        let from = "https://hub.co/o/n/resolve/main/x?a=/b";
        assert_eq!(follow(from, "/api/y?q").unwrap(), "https://hub.co/api/y?q");
        assert_eq!(follow(from, "z").unwrap(), "https://hub.co/o/n/resolve/main/z");
        assert_eq!(follow(from, "//cdn.co/y").unwrap(), "https://cdn.co/y");
        assert_eq!(follow("http://hub.co/x", "http://cdn.co/y").unwrap(), "http://cdn.co/y");
        assert!(follow(from, "http://cdn.co/y").is_err());
        assert!(follow(from, "file:///etc/passwd").is_err());
        assert!(!follow(from, "http://cdn.co/y?key=secret").unwrap_err().contains("secret"));
    }

    #[test]
    fn another_port_or_name_is_another_origin() {
        assert_eq!(origin("https://Hub.co/a"), origin("https://hub.co"));
        for other in ["http://hub.co/a", "https://hub.co:8/a", "https://hub.co.evil/a", "https://hub.co@evil/a"] {
            assert_ne!(origin(other), origin("https://hub.co"));
        }
    }
}
