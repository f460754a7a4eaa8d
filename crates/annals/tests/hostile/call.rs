//! Calls by a library that keeps to HTTP/2, with contents that keep to nothing.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode};
use prost::Message;

pub(crate) const APPEND: &str = "/event_store.client.streams.Streams/Append";
pub(crate) const BATCH: &str = "/event_store.client.streams.Streams/BatchAppend";
pub(crate) const READ: &str = "/event_store.client.streams.Streams/Read";
pub(crate) const DELETE: &str = "/event_store.client.streams.Streams/Delete";
pub(crate) const TOMBSTONE: &str = "/event_store.client.streams.Streams/Tombstone";
pub(crate) const RECORDS: &str = "/kurrentdb.protocol.v2.streams.StreamsService/AppendRecords";
pub(crate) const SESSION: &str = "/kurrentdb.protocol.v2.streams.StreamsService/AppendSession";
pub(crate) const GROUPS: &str = "/event_store.client.persistent_subscriptions.PersistentSubscriptions";

pub(crate) const OK: &str = "0";
pub(crate) const INVALID_ARGUMENT: &str = "3";
pub(crate) const DEADLINE_EXCEEDED: &str = "4";
pub(crate) const PERMISSION_DENIED: &str = "7";
pub(crate) const RESOURCE_EXHAUSTED: &str = "8";
pub(crate) const UNIMPLEMENTED: &str = "12";

/// A call that is not as it should be.
#[derive(Clone)]
pub(crate) struct Call {
    method: Method,
    path: String,
    headers: HeaderMap,
    body: Vec<Bytes>,
    end: bool,
}

/// What became of a call.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) http: StatusCode,
    /// `grpc-status`, wherever it was.
    pub(crate) status: Option<String>,
    pub(crate) text: String,
    pub(crate) body: Vec<u8>,
    /// Headers and trailers, as they are printed.
    pub(crate) fields: String,
}

impl Answer {
    #[track_caller]
    pub(crate) fn is(&self, statuses: &[&str]) {
        let status = self.status.as_deref();
        assert!(status.is_some_and(|status| statuses.contains(&status)), "not {statuses:?}: {self:?}");
    }

    #[track_caller]
    pub(crate) fn is_no_success(&self) {
        assert!(self.http != StatusCode::OK || self.status.as_deref().is_some_and(|status| status != OK), "{self:?}");
    }
}

/// A gRPC message: flag, length, bytes.
pub(crate) fn framed(flag: u8, length: u32, bytes: &[u8]) -> Bytes {
    let mut out = vec![flag];
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes);
    out.into()
}

impl Call {
    pub(crate) fn to(path: &str) -> Call {
        let headers =
            HeaderMap::from_iter([(http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"))]);
        Call { method: Method::POST, path: path.to_owned(), headers, body: Vec::new(), end: true }
    }

    pub(crate) fn by(self, method: Method) -> Call {
        Call { method, ..self }
    }

    /// Without the content type, or with another one.
    pub(crate) fn content_type(mut self, content_type: Option<&'static str>) -> Call {
        self.headers.remove(http::header::CONTENT_TYPE);
        if let Some(content_type) = content_type {
            self.headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static(content_type));
        }
        self
    }

    /// With one more header field, also where there is one of that name.
    pub(crate) fn with(mut self, name: &str, value: &[u8]) -> Call {
        let name: HeaderName = name.parse().expect("a name of a header");
        self.headers.append(name, HeaderValue::from_bytes(value).expect("a value of a header"));
        self
    }

    /// With these bytes next.
    pub(crate) fn bytes(mut self, bytes: impl Into<Bytes>) -> Call {
        self.body.push(bytes.into());
        self
    }

    /// With these bytes as a message next.
    pub(crate) fn raw(self, message: &[u8]) -> Call {
        let length = u32::try_from(message.len()).expect("below 4 GiB");
        self.bytes(framed(0, length, message))
    }

    /// With this message next.
    pub(crate) fn message(self, message: &impl Message) -> Call {
        self.raw(&message.encode_to_vec())
    }

    /// That is cancelled after all was sent.
    pub(crate) fn cancelled(self) -> Call {
        Call { end: false, ..self }
    }

    /// Makes it over a connection of its own. An error is one of HTTP/2.
    pub(crate) fn make(&self, port: u16) -> Result<Answer, h2::Error> {
        run(async {
            let (client, connection) = connect(port).await?;
            let driver = tokio::spawn(connection);
            let answer = self.over(client).await;
            driver.abort();
            answer
        })
    }

    /// Makes it; it is answered.
    #[track_caller]
    pub(crate) fn answer(&self, port: u16) -> Answer {
        self.make(port).expect("an answer")
    }

    /// Makes it so many times, over one connection, all at once; what became of
    /// each.
    pub(crate) fn make_many(&self, port: u16, times: usize) -> Vec<Result<Answer, h2::Error>> {
        run(async {
            let (client, connection) = connect(port).await.expect("a connection");
            let driver = tokio::spawn(connection);
            let calls = (0..times).map(|_| self.over(client.clone()));
            let answers = futures::future::join_all(calls).await;
            driver.abort();
            answers
        })
    }

    async fn over(&self, client: h2::client::SendRequest<Bytes>) -> Result<Answer, h2::Error> {
        let mut request = Request::builder().method(self.method.clone()).uri(format!("http://localhost{}", self.path));
        *request.headers_mut().expect("a valid request") = self.headers.clone();
        let request = request.body(()).expect("a valid request");
        let mut client = client.ready().await?;
        let (response, mut sending) = client.send_request(request, self.body.is_empty() && self.end)?;
        let sent = async {
            for (at, chunk) in self.body.iter().enumerate() {
                // A server that refuses by the headers alone may have answered,
                // and ended the stream, by now; the answer is what counts.
                if send(&mut sending, chunk.clone(), self.end && at + 1 == self.body.len()).await.is_err() {
                    break;
                }
            }
        };
        let answer = async {
            let response = response.await?;
            let http = response.status();
            let mut headers = response.headers().clone();
            let mut receiving = response.into_body();
            let mut body = Vec::new();
            while let Some(chunk) = receiving.data().await {
                let chunk = chunk?;
                receiving.flow_control().release_capacity(chunk.len())?;
                body.extend_from_slice(&chunk);
            }
            headers.extend(receiving.trailers().await?.unwrap_or_default());
            let text = |name| {
                let text = headers.get(name).map(|value: &HeaderValue| String::from_utf8_lossy(value.as_bytes()));
                text.map(std::borrow::Cow::into_owned)
            };
            let (status, message) = (text("grpc-status"), text("grpc-message").unwrap_or_default());
            Ok(Answer { http, status, text: message, body, fields: format!("{headers:?}") })
        };
        if !self.end {
            sent.await;
            sending.send_reset(h2::Reason::CANCEL);
            let nothing = Answer {
                http: StatusCode::OK,
                status: None,
                text: String::new(),
                body: Vec::new(),
                fields: String::new(),
            };
            return Ok(nothing);
        }
        let both = async { futures::future::join(sent, answer).await.1 };
        tokio::time::timeout(Duration::from_secs(30), both).await.expect("an answer in time")
    }
}

/// Sends as the window allows.
async fn send(sending: &mut h2::SendStream<Bytes>, mut bytes: Bytes, end: bool) -> Result<(), h2::Error> {
    loop {
        sending.reserve_capacity(bytes.len());
        let room = match bytes.is_empty() {
            true => 0,
            false => match std::future::poll_fn(|cx| sending.poll_capacity(cx)).await {
                Some(room) => room?,
                None => return Ok(()),
            },
        };
        let piece = bytes.split_to(room.min(bytes.len()));
        let is_last = bytes.is_empty();
        sending.send_data(piece, end && is_last)?;
        if is_last {
            return Ok(());
        }
    }
}

type Connection = h2::client::Connection<tokio::net::TcpStream, Bytes>;

async fn connect(port: u16) -> Result<(h2::client::SendRequest<Bytes>, Connection), h2::Error> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await.expect("it listens");
    h2::client::Builder::new().max_header_list_size(1 << 20).handshake(stream).await
}

/// Runs it to its end.
pub(crate) fn run<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime").block_on(future)
}

/// Makes a read with this request, takes what fits a window, then nothing until the
/// node has given up, then the rest. What came, and the trailers.
pub(crate) async fn stalled(port: u16, request: Vec<u8>) -> (Vec<u8>, HeaderMap) {
    let (client, connection) = connect(port).await.expect("a connection");
    let driver = tokio::spawn(connection);
    let content_type = (http::header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    let mut head = Request::post(format!("http://localhost{READ}"));
    head.headers_mut().expect("a valid request").extend([content_type]);
    let mut client = client.ready().await.expect("ready");
    let (response, mut sending) = client.send_request(head.body(()).expect("a valid request"), false).expect("a call");
    sending.send_data(request.into(), true).expect("a request");
    let mut receiving = response.await.expect("an answer").into_body();
    // The window is left as full as it gets.
    crate::support::eventually("the node gives up", || {
        let metrics = crate::support::get(port, "/metrics").body;
        metrics.contains("annals_readers_given_up_total 1").then_some(())
    });
    let mut body = Vec::new();
    while let Some(chunk) = receiving.data().await {
        let chunk = chunk.expect("no reset");
        receiving.flow_control().release_capacity(chunk.len()).expect("it was received");
        body.extend_from_slice(&chunk);
    }
    let trailers = receiving.trailers().await.expect("no reset").expect("a status");
    driver.abort();
    (body, trailers)
}
