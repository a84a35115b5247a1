//! Compiles the contract without protoc to the client, the server, and the descriptor set that reflection serves.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto");
    let out_dir = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).include_source_info(true);
    // nothing imports the details of errors: they are in the bytes of a status
    compiler.open_files(["unibus/v1/room_service.proto", "google/rpc/error_details.proto"])?;
    fs::write(out_dir.join("unibus_descriptor.bin"), compiler.encode_file_descriptor_set())?;
    let has_server = env::var_os("CARGO_FEATURE_SERVER").is_some();
    let mut generator = tonic_prost_build::configure()
        .bytes(".")
        .build_server(has_server)
        .extern_path(".google.rpc", "::tonic_types::pb");
    if has_server {
        // counts the entries of a request before it is decoded
        generator = generator.codec_path("crate::grpc::Codec");
    }
    generator.compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
