//! A client's socket, blocking and limited in time: how long the client may keep it waiting, and how that is measured.

use socket2::SockRef;
use std::io::{self, BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::sync::Weak;
use std::time::{Duration, Instant};

/// It waits in short turns, and only their time counts: not that in which this whole program stood still (Ctrl+Z, the
/// sleep of a laptop).
pub struct Socket {
    /// rustls reads in pieces of 4 KiB, which would each be a system call.
    stream: BufReader<TcpStream>,
    /// How long the client may keep it waiting.
    pub timeout: Duration,
    turn: Duration,
    /// The token that each connection holds, and the listener.
    connections: Weak<()>,
    /// The connection is one too many, which is told so and no more.
    pub is_refused: bool,
    limit: Limit,
    waited: Wait,
    /// In writing; ended by all that was to be written.
    write_waited: Wait,
}

/// How long a client has kept the socket waiting, and how many bytes have gone on meanwhile.
#[derive(Default)]
struct Wait {
    time: Duration,
    bytes: usize,
}

impl Wait {
    /// Who is slower than that within the time allowed does not get on.
    fn ease(&mut self, byte_count: usize) {
        self.bytes += byte_count;
        if self.bytes >= LEAST_BYTES {
            *self = Wait::default();
        }
    }
}

/// What a client's time is for.
#[derive(Clone, Copy)]
pub enum Limit {
    /// Every next byte.
    Silence,
    /// The first byte; and then everything behind it altogether.
    Start,
    Whole,
}

impl Socket {
    pub fn new(stream: TcpStream, timeout: Duration, connections: Weak<()>, is_refused: bool) -> io::Result<Socket> {
        let turn = (timeout / 4).min(TURN);
        stream.set_read_timeout(Some(turn))?;
        stream.set_write_timeout(Some(if cfg!(windows) { timeout } else { turn }))?;
        let (stream, limit) = (BufReader::with_capacity(READ_BYTES, stream), Limit::Start);
        let (waited, write_waited) = (Wait::default(), Wait::default());
        Ok(Socket { stream, timeout, turn, connections, is_refused, limit, waited, write_waited })
    }

    /// What the time allowed is for, from now on.
    pub fn limit(&mut self, limit: Limit) {
        (self.limit, self.waited) = (limit, Wait::default());
    }

    /// What has come, and stays to be read; nothing at the end. The error is TimedOut where the client's time is over.
    pub fn fill(&mut self) -> io::Result<&[u8]> {
        while self.waited.time < self.patience() {
            let began = Instant::now();
            // Windows may lose what comes in the very moment in which a read gives up waiting, and nothing where it
            // was only looked for (Microsoft, "SOL_SOCKET Socket Options", SO_RCVTIMEO).
            let is_empty = self.stream.buffer().is_empty();
            let looked = if cfg!(windows) && is_empty { self.stream.get_ref().peek(&mut [0]) } else { Ok(0) };
            let outcome = looked.and_then(|_| self.stream.fill_buf().map(<[u8]>::len));
            self.waited.time += began.elapsed().min(self.turn);
            match (outcome, self.limit) {
                (Err(error), _) if is_passing(&error) => continue,
                (Err(error), _) => return Err(error),
                (Ok(_), Limit::Start) => (self.limit, self.waited) = (Limit::Whole, Wait::default()),
                // What is still there from before counts once.
                (Ok(count), Limit::Silence) if self.is_crowded() => self.waited.ease(if is_empty { count } else { 0 }),
                (Ok(_), Limit::Silence) => self.waited = Wait::default(),
                (Ok(_), Limit::Whole) => {}
            }
            return Ok(self.stream.buffer());
        }
        Err(ErrorKind::TimedOut.into())
    }

    /// Among many clients one that does not get on gives its place to others.
    fn patience(&self) -> Duration {
        if self.is_crowded() { self.timeout.min(CROWD_PATIENCE) } else { self.timeout }
    }

    fn is_crowded(&self) -> bool {
        self.connections.strong_count() - 1 > CROWD
    }

    /// Waits so long for what the client still sends, which nobody needs.
    pub fn look(&self, limit: Duration) -> io::Result<usize> {
        let mut stream = self.stream.get_ref();
        stream.set_read_timeout(Some(limit))?;
        loop {
            match stream.read(&mut [0; READ_BYTES]) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                outcome => return outcome,
            }
        }
    }

    /// Has the connection end with a reset, and without what is still on its way.
    pub fn reset_at_end(&self) {
        // Where this fails, it ends without one.
        SockRef::from(self.stream.get_ref()).set_linger(Some(Duration::ZERO)).ok();
    }

    /// Ends the connection so that the client can read the last answer even while it is still sending: what it sends
    /// is read and dropped, for as long as it keeps coming and patience lasts. Closing a socket that has unread bytes
    /// would destroy what is on its way to the client (RFC 9112, 9.6). Returns how the client has ended it.
    pub fn end(&mut self) -> io::Result<usize> {
        self.stream.get_ref().shutdown(Shutdown::Write)?;
        let (pause, limit) = if self.is_crowded() { (TURN, TURN) } else { (LINGER, self.timeout) };
        let deadline = Instant::now() + limit;
        loop {
            let count = self.look(pause)?;
            if count == 0 || Instant::now() > deadline {
                return Ok(count);
            }
        }
    }
}

impl Read for Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = self.fill()?.read(buffer)?;
        self.stream.consume(count);
        Ok(count)
    }
}

impl Write for Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.write_vectored(&[io::IoSlice::new(bytes)])
    }

    /// As much as the client takes at once. The error is TimedOut where it has taken next to nothing for its whole time.
    fn write_vectored(&mut self, pieces: &[io::IoSlice]) -> io::Result<usize> {
        let all: usize = pieces.iter().map(|piece| piece.len()).sum();
        while self.write_waited.time < self.patience() {
            let began = Instant::now();
            let outcome = self.stream.get_mut().write_vectored(pieces);
            self.write_waited.time += began.elapsed().min(self.turn);
            match &outcome {
                Ok(count) if *count == all => self.write_waited = Wait::default(),
                Ok(count) => self.write_waited.ease(*count),
                // Windows does not tell how much has gone before a timeout, so that there the first one is the last.
                Err(error) if is_passing(error) && !cfg!(windows) => continue,
                Err(_) => {}
            }
            return outcome;
        }
        Err(ErrorKind::TimedOut.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The end of a turn, which is WouldBlock on Unix and TimedOut on Windows, or of a stop of this program.
pub fn is_passing(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted)
}

/// Whether the client has reset the connection, or has closed it while it was written to.
pub fn is_reset(error: &io::Error) -> bool {
    use ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected};
    matches!(error.kind(), ConnectionReset | ConnectionAborted | BrokenPipe | NotConnected)
}

const READ_BYTES: usize = 16 * 1024;
/// So long is waited at a time, or a quarter of the timeout.
const TURN: Duration = Duration::from_millis(500);
/// Above so many connections there is less patience: together with turns at its end less than two seconds.
const CROWD: usize = 256;
const CROWD_PATIENCE: Duration = Duration::from_millis(1000);
/// Within that time.
const LEAST_BYTES: usize = 1000;
/// How long a client that is still sending may pause before its connection is closed.
const LINGER: Duration = Duration::from_secs(1);
