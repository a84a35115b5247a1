//! The query of a GET in the Connect protocol ("Unary-Get-Request"), which holds the request message.

use std::borrow::Cow;

use base64::{
    Engine as _, alphabet,
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use bytes::Bytes;
use percent_encoding::percent_decode;

use super::call::{ConnectCodec, HeadFault};
use crate::server::compression;

/// Base64 in a query: the alphabet for URLs, with or without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::URL_SAFE,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// The parameters of the protocol. Others are ignored.
#[derive(Debug, Default)]
pub(super) struct GetQuery<'a> {
    connect: Option<Cow<'a, [u8]>>,
    encoding: Option<Cow<'a, [u8]>>,
    message: Option<Cow<'a, [u8]>>,
    base64: Option<Cow<'a, [u8]>>,
    compression: Option<Cow<'a, [u8]>>,
}

impl<'a> GetQuery<'a> {
    pub(super) fn parse(query: &'a str) -> Self {
        let mut found = Self::default();
        for pair in query.split('&') {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            let place = match name {
                "connect" => &mut found.connect,
                "encoding" => &mut found.encoding,
                "message" => &mut found.message,
                "base64" => &mut found.base64,
                "compression" => &mut found.compression,
                _ => continue,
            };
            *place = Some(decoded(value));
        }
        found
    }

    /// How the message is encoded; `None` for an unknown codec.
    pub(super) fn codec(&self) -> Option<ConnectCodec> {
        ConnectCodec::named(std::str::from_utf8(self.encoding.as_deref()?).ok()?)
    }

    /// The message, and whether it is compressed with gzip.
    ///
    /// # Errors
    /// When a parameter is missing or wrong.
    pub(super) fn message(&self) -> Result<(Bytes, bool), HeadFault> {
        if self.connect.as_deref().is_some_and(|version| version != b"v1") {
            return Err(HeadFault::Version);
        }
        let is_compressed = compression::named(self.compression.as_deref()).ok_or(HeadFault::Compression)?;
        let message = self.message.as_deref().ok_or(HeadFault::Query("message"))?;
        let message = match self.base64.as_deref() {
            Some(b"1") => BASE64.decode(message).map(Bytes::from).map_err(|_| HeadFault::Query("message"))?,
            None | Some(b"" | b"0") => Bytes::copy_from_slice(message),
            Some(_) => return Err(HeadFault::Query("base64")),
        };
        Ok((message, is_compressed))
    }
}

/// The value as a form encodes it: `+` is a space, and `%` begins a byte.
fn decoded(value: &str) -> Cow<'_, [u8]> {
    if value.contains('+') {
        let spaced = value.replace('+', " ");
        return Cow::Owned(percent_decode(spaced.as_bytes()).collect());
    }
    percent_decode(value.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_message_is_text_or_base64() {
        for (query, expected) in [
            ("connect=v1&encoding=json&message=%7B%22a%22%3A+1%7D", Ok(&br#"{"a": 1}"#[..])),
            ("encoding=proto&base64=1&message=_-8", Ok(&[0xff, 0xef][..])),
            ("encoding=proto&base64=1&message=_-8%3D&compression=identity", Ok(&[0xff, 0xef][..])),
            ("message=", Ok(&[][..])),
            ("encoding=json", Err(HeadFault::Query("message"))),
            ("message=!&base64=1", Err(HeadFault::Query("message"))),
            ("message=a&base64=2", Err(HeadFault::Query("base64"))),
            ("message=a&compression=br", Err(HeadFault::Compression)),
            ("message=a&connect=v2", Err(HeadFault::Version)),
        ] {
            let found = GetQuery::parse(query).message();
            assert_eq!(found, expected.map(|message| (Bytes::from_static(message), false)), "{query}");
        }
        let compressed = GetQuery::parse("message=_-8&base64=1&compression=gzip").message();
        assert_eq!(compressed, Ok((Bytes::from_static(&[0xff, 0xef]), true)));
        assert_eq!(GetQuery::parse("encoding=json").codec(), Some(ConnectCodec::Json));
        assert_eq!(GetQuery::parse("encoding=text").codec(), None);
    }

    proptest! {
        #[test]
        fn any_query_is_read(query in any::<String>()) {
            let query = GetQuery::parse(&query);
            let _ = (query.codec(), query.message());
        }
    }
}
