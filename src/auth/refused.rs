//! Why credentials are refused. For the log: a caller without valid credentials learns no more than that.

use thiserror::Error;

/// Why a caller is refused. For the log.
#[derive(Clone, Copy, Debug, Error, PartialEq, Eq)]
pub(super) enum Refused {
    #[error("the call has neither a token nor a client certificate")]
    Nothing,
    #[error("the call does not have exactly one authorization header of the form `Bearer ...`")]
    Header,
    #[error("the token is too long")]
    TooLong,
    #[error("the token does not have three parts in base64url")]
    Form,
    #[error("the header of the token is not valid")]
    TokenHeader,
    #[error("the type of the token is not that of an access token")]
    Type,
    #[error("no key has the id and algorithm of the token")]
    NoKey,
    #[error("the signature of the token matches no key")]
    Signature,
    #[error("the token or certificate has expired")]
    Expired,
    #[error("the token is not valid yet (`nbf`)")]
    TooEarly,
    #[error("a claim is missing, present twice, or of a wrong type")]
    Claims,
    #[error("the issuer (`iss`) is not --auth-issuer")]
    Issuer,
    #[error("the audience (`aud`) is not --auth-audience")]
    Audience,
    #[error("the subject (`sub`) is not a valid id")]
    Subject,
}
