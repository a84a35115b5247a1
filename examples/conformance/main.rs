//! The server of the conformance suite of the Connect protocols (`connectrpc.com/conformance`): its test service on the
//! listener and behind the layers of unibus. `.ci/run conformance` runs the suite against it.
//!
//! The suite writes a `ServerCompatRequest` to standard input, with its length before it, and reads the address from
//! standard output. The server runs until SIGTERM. `CONFORMANCE_PROTO` names the folder with the
//! descriptors of the suite.

mod messages;
mod service;

use std::{env, path::PathBuf};

use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use unibus::{Config, EmbeddedNatsConfig, OtherService, Server, StopSignals};

use self::{
    messages::{ServerCompatRequest, ServerCompatResponse},
    service::Conformance,
};

/// Maximum bytes of a request message, unless the suite asks for another.
const REQUEST_BYTES_MAX: usize = 1024 * 1024;

#[tokio::main(worker_threads = 2)]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut signals = StopSignals::listen()?;
    let mut input = tokio::io::stdin();
    let length = usize::try_from(input.read_u32().await?)?;
    let mut request = vec![0; length];
    input.read_exact(&mut request).await?;
    let request = ServerCompatRequest::decode(&*request)?;
    assert!(!request.use_tls, "the configuration of the suite says that TLS is not tested");

    let data_dir = tempfile::tempdir()?;
    let loopback = ([127, 0, 0, 1], 0).into();
    let config = Config {
        listen: loopback,
        admin_listen: loopback,
        embedded: EmbeddedNatsConfig { data_dir: data_dir.path().into(), ..EmbeddedNatsConfig::default() },
        ..Config::default()
    };
    let server = Server::bind_with(config, test_service(request.message_receive_limit)?).await?;

    let address = server.local_addr();
    let response = ServerCompatResponse { host: address.ip().to_string(), port: address.port().into() };
    let mut output = tokio::io::stdout();
    output.write_u32(u32::try_from(response.encoded_len())?).await?;
    output.write_all(&response.encode_to_vec()).await?;
    output.flush().await?;

    signals.next().await;
    server.shutdown().await?;
    Ok(())
}

/// The test service, with the descriptors of the suite.
fn test_service(limit: u32) -> Result<OtherService, Box<dyn std::error::Error>> {
    let folder = PathBuf::from(env::var("CONFORMANCE_PROTO")?);
    let mut compiler = protox::Compiler::new([folder])?;
    compiler.include_imports(true).open_file("connectrpc/conformance/v1/service.proto")?;
    let descriptors = compiler.encode_file_descriptor_set().leak();
    let request_bytes_max = if limit == 0 { REQUEST_BYTES_MAX } else { usize::try_from(limit)? };
    Ok(OtherService::new(Conformance { request_bytes_max }, descriptors, request_bytes_max))
}
