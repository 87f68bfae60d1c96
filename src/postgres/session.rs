//! A session with the server: its login, and the messages that can arrive at any time.

use std::collections::{BTreeMap, VecDeque};

use fallible_iterator::FallibleIterator;
use postgres_protocol::authentication::md5_hash;
use postgres_protocol::authentication::sasl::{ChannelBinding, SCRAM_SHA_256, ScramSha256};
use postgres_protocol::message::backend::{
    self, AuthenticationSaslBody, Message, ParameterStatusBody,
};
use postgres_protocol::message::frontend;

use crate::postgres::error::{AuthenticationError, Error, ProtocolError};
use crate::postgres::server_error::ServerError;
use crate::postgres::transport::{Limits, Transport};
use crate::postgres::{Login, Stream};

/// How many notices are kept until they are taken, the newest ones.
const MAX_NOTICES: usize = 32;
/// The most parameters that a server may report. PostgreSQL 18 reports 15.
const MAX_PARAMETERS: usize = 100;
/// The longest message, in bytes, until the login is complete. libpq allows 30,000.
const MAX_STARTUP_MESSAGE_BYTES: usize = 64 * 1024;

/// Whether a transaction is open, according to the last `ReadyForQuery`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// No transaction is open.
    Idle,
    /// A transaction is open.
    InTransaction,
    /// A transaction is open and has failed: the server accepts only a rollback.
    Failed,
}

/// The messages except those that can arrive at any time: notices and parameters are kept here,
/// notifications are dropped, and errors are returned as errors.
pub(super) struct Session<S> {
    pub(super) transport: Transport<S>,
    pub(super) status: TransactionStatus,
    pub(super) parameters: BTreeMap<String, String>,
    pub(super) notices: VecDeque<ServerError>,
}

impl<S: Stream> Session<S> {
    /// Logs in over `stream`. The caller limits the time.
    pub(super) async fn start(stream: S, login: &Login, limits: Limits) -> Result<Self, Error> {
        let max_message_bytes = limits.max_message_bytes.min(MAX_STARTUP_MESSAGE_BYTES);
        let startup_limits = Limits {
            max_message_bytes,
            ..limits
        };
        let mut session = Self {
            transport: Transport::new(stream, startup_limits),
            status: TransactionStatus::Idle,
            parameters: BTreeMap::new(),
            notices: VecDeque::new(),
        };
        let outgoing = &mut session.transport.outgoing;
        frontend::startup_message(login.startup_parameters(), outgoing).map_err(Error::Request)?;
        session.transport.send().await?;
        session.authenticate(login).await?;
        loop {
            match session.receive().await? {
                // Only a cancel request needs the key, and that is sent on a second connection.
                Message::BackendKeyData(_) => {}
                Message::ReadyForQuery(body) => {
                    session.set_status(body.status())?;
                    break;
                }
                _ => return Err(session.transport.unexpected("ReadyForQuery")),
            }
        }
        session.transport.set_limits(limits);
        Ok(session)
    }

    /// Returns the next message that answers a request. Cancellation safe.
    pub(super) async fn receive(&mut self) -> Result<Message, Error> {
        loop {
            match self.transport.receive().await? {
                Message::NoticeResponse(body) => {
                    let tag = backend::NOTICE_RESPONSE_TAG;
                    let notice = ServerError::parse(tag, body.fields())?;
                    if self.notices.len() == MAX_NOTICES {
                        self.notices.pop_front();
                    }
                    self.notices.push_back(notice);
                }
                Message::ParameterStatus(body) => self.set_parameter(&body)?,
                Message::NotificationResponse(_) => {}
                Message::ErrorResponse(body) => {
                    let tag = backend::ERROR_RESPONSE_TAG;
                    let error = ServerError::parse(tag, body.fields())?;
                    return Err(Error::Server(Box::new(error)));
                }
                message => return Ok(message),
            }
        }
    }

    /// Records the status byte of a `ReadyForQuery`.
    pub(super) fn set_status(&mut self, status: u8) -> Result<(), Error> {
        self.status = match status {
            b'I' => TransactionStatus::Idle,
            b'T' => TransactionStatus::InTransaction,
            b'E' => TransactionStatus::Failed,
            other => return Err(Error::Protocol(ProtocolError::TransactionStatus(other))),
        };
        Ok(())
    }

    fn set_parameter(&mut self, body: &ParameterStatusBody) -> Result<(), Error> {
        let malformed = |source| self.transport.malformed(source);
        let name = body.name().map_err(malformed)?;
        let value = body.value().map_err(malformed)?;
        if self.parameters.len() >= MAX_PARAMETERS && !self.parameters.contains_key(name) {
            return Err(Error::Protocol(ProtocolError::TooManyParameters));
        }
        self.parameters.insert(name.to_owned(), value.to_owned());
        Ok(())
    }

    /// Answers the server's authentication request, up to its `AuthenticationOk`.
    async fn authenticate(&mut self, login: &Login) -> Result<(), Error> {
        match self.receive().await? {
            // The server trusts the client (pg_hba.conf), or a pooler accepted the login.
            Message::AuthenticationOk => return Ok(()),
            Message::AuthenticationCleartextPassword => {
                self.send_password(password(login)?).await?;
            }
            Message::AuthenticationMd5Password(body) => {
                let hash = md5_hash(login.user.as_bytes(), password(login)?, body.salt());
                self.send_password(hash.as_bytes()).await?;
            }
            Message::AuthenticationSasl(body) => self.scram(&body, password(login)?).await?,
            Message::AuthenticationKerberosV5 => return Err(unsupported("Kerberos V5")),
            Message::AuthenticationGss => return Err(unsupported("GSSAPI")),
            Message::AuthenticationSspi => return Err(unsupported("SSPI")),
            Message::AuthenticationScmCredential => return Err(unsupported("SCM credentials")),
            _ => return Err(self.transport.unexpected("an authentication request")),
        }
        match self.receive().await? {
            Message::AuthenticationOk => Ok(()),
            _ => Err(self.transport.unexpected("AuthenticationOk")),
        }
    }

    async fn send_password(&mut self, password: &[u8]) -> Result<(), Error> {
        let outgoing = &mut self.transport.outgoing;
        frontend::password_message(password, outgoing).map_err(Error::Request)?;
        self.transport.send().await
    }

    /// SCRAM-SHA-256, in which each side proves that it knows the password (RFC 5802). Without channel
    /// binding, because Workers' sockets do not expose the certificate.
    async fn scram(
        &mut self,
        offer: &AuthenticationSaslBody,
        password: &[u8],
    ) -> Result<(), Error> {
        let failed = |error| Error::Authentication(AuthenticationError::Scram(error));
        let offered = offer
            .mechanisms()
            .any(|name| Ok(name == SCRAM_SHA_256))
            .map_err(|source| self.transport.malformed(source))?;
        if !offered {
            let error = AuthenticationError::UnsupportedMechanism;
            return Err(Error::Authentication(error));
        }
        let mut scram = ScramSha256::new(password, ChannelBinding::unsupported());
        let outgoing = &mut self.transport.outgoing;
        frontend::sasl_initial_response(SCRAM_SHA_256, scram.message(), outgoing)
            .map_err(Error::Request)?;
        self.transport.send().await?;
        match self.receive().await? {
            Message::AuthenticationSaslContinue(body) => {
                scram.update(body.data()).map_err(failed)?;
            }
            Message::AuthenticationOk => return Err(not_proven()),
            _ => return Err(self.transport.unexpected("AuthenticationSASLContinue")),
        }
        let outgoing = &mut self.transport.outgoing;
        frontend::sasl_response(scram.message(), outgoing).map_err(Error::Request)?;
        self.transport.send().await?;
        match self.receive().await? {
            Message::AuthenticationSaslFinal(body) => scram.finish(body.data()).map_err(failed),
            Message::AuthenticationOk => Err(not_proven()),
            _ => Err(self.transport.unexpected("AuthenticationSASLFinal")),
        }
    }
}

fn password(login: &Login) -> Result<&[u8], Error> {
    match login.password.as_deref() {
        // Postgres treats an empty password as missing (libpq: "no password supplied").
        None | Some([]) => Err(Error::Authentication(AuthenticationError::PasswordRequired)),
        Some(password) => Ok(password),
    }
}

fn unsupported(method: &'static str) -> Error {
    Error::Authentication(AuthenticationError::UnsupportedMethod(method))
}

fn not_proven() -> Error {
    Error::Authentication(AuthenticationError::ServerNotProven)
}
