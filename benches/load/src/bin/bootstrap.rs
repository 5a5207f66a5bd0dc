//! `bootstrap`: the smallest custom runtime, for measuring what the platform itself costs. One connection to the
//! Runtime API, kept open; every event gets the same answer.
//!
//! Not here: error reports, headers of the invocation beside its id, a handler.
//!
//! Start reading at `main`.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;

type Failure = Box<dyn std::error::Error>;

const ANSWER: &str =
    r#"{"statusCode":200,"headers":{"content-type":"application/json"},"body":"{\"message\":\"hello\"}"}"#;

fn main() -> Result<(), Failure> {
    let host = std::env::var("AWS_LAMBDA_RUNTIME_API")?;
    let stream = TcpStream::connect(&host)?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let next = format!("GET /2018-06-01/runtime/invocation/next HTTP/1.1\r\nHost: {host}\r\n\r\n");
        writer.write_all(next.as_bytes())?;
        let id = read_answer(&mut reader)?.ok_or("an invocation without id")?;
        let answer = format!(
            "POST /2018-06-01/runtime/invocation/{id}/response HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n{ANSWER}",
            ANSWER.len()
        );
        writer.write_all(answer.as_bytes())?;
        read_answer(&mut reader)?;
    }
}

/// Reads one answer to its end; the invocation's id, if it names one.
fn read_answer(reader: &mut impl BufRead) -> Result<Option<String>, Failure> {
    let (mut id, mut length) = (None, 0_usize);
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Err("the Runtime API closed the connection".into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        let Some((name, value)) = line.split_once(':') else { continue };
        match name.to_ascii_lowercase().as_str() {
            "content-length" => length = value.trim().parse()?,
            "lambda-runtime-aws-request-id" => id = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    Ok(id)
}
