//! An HTTP client that sends exactly what it is told, also what no decent client would.

use std::fmt::Write;
use std::net::SocketAddr;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Option<Vec<u8>>,
}

pub(crate) fn request(method: &'static str, path: impl Into<String>) -> Request {
    Request { method, path: path.into(), headers: Vec::new(), body: None }
}

impl Request {
    pub(crate) fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.header("Authorization", &format!("Bearer {token}"))
    }

    pub(crate) fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(crate) async fn send(&self, to: SocketAddr) -> Reply {
        let mut head = format!("{} {} HTTP/1.1\r\nConnection: close\r\n", self.method, self.path);
        if !self.headers.iter().any(|(name, _)| name == "Host") {
            writeln!(head, "Host: {to}\r").unwrap();
        }
        for (name, value) in &self.headers {
            writeln!(head, "{name}: {value}\r").unwrap();
        }
        if let Some(body) = &self.body {
            writeln!(head, "Content-Length: {}\r", body.len()).unwrap();
        }
        head += "\r\n";
        let mut stream = TcpStream::connect(to).await.unwrap();
        stream.write_all(head.as_bytes()).await.unwrap();
        if let Some(body) = &self.body {
            // The server may answer, and close, before it has read all.
            let _ = stream.write_all(body).await;
        }
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        Reply::read(&bytes)
    }
}

pub(crate) struct Reply {
    pub(crate) status: u16,
    headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Reply {
    fn read(bytes: &[u8]) -> Self {
        let text = String::from_utf8(bytes.to_vec()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").expect("a whole head");
        let mut lines = head.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let headers = lines.map(|line| {
            let (name, value) = line.split_once(": ").unwrap();
            (name.to_ascii_lowercase(), value.to_owned())
        });
        Self { status, headers: headers.collect(), body: body.to_owned() }
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(it, _)| it == name).map(|(_, value)| value.as_str())
    }

    /// In alphabetical order.
    pub(crate) fn header_names(&self) -> Vec<String> {
        let mut names: Vec<String> = self.headers.iter().map(|(name, _)| name.clone()).collect();
        names.sort_unstable();
        names
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no JSON: {:?}", self.body))
    }

    /// That it is a failure with the whole envelope; says its message.
    pub(crate) fn failure(&self, status: u16, code: u64, what: &str) -> String {
        assert_eq!(self.status, status, "{what}: {}", self.body);
        let json = self.json();
        let error = &json["errors"][0];
        assert_eq!(error["code"], code, "{what}: {}", self.body);
        let start = format!(r#"{{"result":null,"success":false,"errors":[{{"code":{code},"message":""#);
        assert!(self.body.starts_with(&start), "{what}: {}", self.body);
        assert!(self.body.ends_with(r#"}],"messages":[]}"#), "{what}: {}", self.body);
        assert_eq!(self.header("content-type"), Some("application/json"), "{what}");
        assert_eq!(self.header("cache-control"), Some("no-store"), "{what}");
        error["message"].as_str().unwrap().to_owned()
    }

    /// That it is a success with the whole envelope; says its result.
    pub(crate) fn success(&self, status: u16, what: &str) -> Value {
        assert_eq!(self.status, status, "{what}: {}", self.body);
        let json = self.json();
        assert_eq!(json["success"], true, "{what}");
        assert!(self.body.contains(r#","success":true,"errors":[],"messages":[]"#), "{what}: {}", self.body);
        assert!(self.body.starts_with(r#"{"result":"#), "{what}: {}", self.body);
        json["result"].clone()
    }
}
