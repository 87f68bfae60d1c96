//! A PostgreSQL cluster that belongs to one test, which creates, starts, stops and removes it.

use std::fs::{self, File};
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use super::server::{Version, required_variable};

/// A running cluster. The superuser is `postgres`; `pg_hba.conf` trusts everyone on 127.0.0.1
/// unless it is replaced. Dropping it stops the server and removes its files.
pub struct Cluster {
    bin: PathBuf,
    folder: PathBuf,
    port: u16,
    settings: String,
    owner: Option<(u32, u32)>,
}

impl Cluster {
    /// Creates and starts a cluster of `version` with `wal_level = logical`.
    pub fn start(version: Version) -> Self {
        Self::start_with(version, &[])
    }

    /// As [`Self::start`], with further settings as pairs of name and value.
    pub fn start_with(version: Version, settings: &[(&str, &str)]) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let bin = PathBuf::from(required_variable(version.bin_variable()));
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let name = format!("pg-change-feed-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        // Postgres refuses to run as root.
        let owner = running_as_root().then(|| ids_of("postgres"));
        fs::create_dir(&folder).unwrap();
        if let Some((user, group)) = owner {
            chown(&folder, Some(user), Some(group)).unwrap();
        }
        let settings = settings.iter().fold(String::new(), |all, (name, value)| {
            all + &format!(" -c {name}={value}")
        });
        let mut cluster = Self {
            bin,
            folder,
            port: 0,
            settings,
            owner,
        };
        let data = cluster.data();
        let data = data.to_str().unwrap();
        let arguments = ["-D", data, "-U", "postgres", "-A", "trust", "-E", "UTF8"];
        cluster.run(
            "initdb",
            &[&arguments[..], &["--locale=C", "--no-sync"]].concat(),
        );
        cluster.boot();
        cluster
    }

    /// The superuser's URL of the database `postgres`.
    pub fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    /// The port on 127.0.0.1.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The data folder.
    pub fn data(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Writes a file to the data folder, which only the server can read (as required of a private
    /// key).
    pub fn write_file(&self, name: &str, content: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.data().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        if let Some((user, group)) = self.owner {
            chown(&path, Some(user), Some(group)).unwrap();
        }
    }

    /// Makes the server reload its configuration files.
    pub fn reload(&self) {
        self.control(&["reload"]);
    }

    /// Stops the server as a crash would: nothing is flushed, and sessions are cut.
    pub fn crash(&self) {
        self.control(&["stop", "-m", "immediate"]);
    }

    /// Starts the stopped server again, on the same port.
    pub fn start_again(&self) {
        assert!(self.try_boot(), "{}", self.log());
    }

    /// Starts the server on a free port. Another process can take a port before the server uses it;
    /// then the next one is tried.
    fn boot(&mut self) {
        for _ in 0..5 {
            let free = TcpListener::bind(("127.0.0.1", 0)).unwrap();
            self.port = free.local_addr().unwrap().port();
            drop(free);
            if self.try_boot() {
                return;
            }
        }
        panic!("the server does not start:\n{}", self.log());
    }

    fn try_boot(&self) -> bool {
        let options = format!(
            "-p {} -c listen_addresses=127.0.0.1 -c unix_socket_directories= -c fsync=off \
             -c wal_level=logical -c max_replication_slots=20{}",
            self.port, self.settings,
        );
        let log = self.folder.join("log");
        let mut command = self.command("pg_ctl");
        command.args(["-w", "-s", "-D"]).arg(self.data());
        command.arg("-l").arg(log).args(["-o", &options, "start"]);
        command.status().unwrap().success()
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    fn control(&self, arguments: &[&str]) {
        let data = self.data();
        let common = ["-w", "-s", "-D", data.to_str().unwrap()];
        self.run("pg_ctl", &[&common, arguments].concat());
    }

    fn run(&self, program: &str, arguments: &[&str]) {
        let done = self.command(program).args(arguments).status().unwrap();
        assert!(done.success(), "{program}: see {}", self.folder.display());
    }

    /// A program of the server, run as its owner. Its output goes to a file, since the server
    /// inherits it and would keep a pipe open.
    fn command(&self, program: &str) -> Command {
        let output = self.folder.join(format!("{program}.out"));
        let output = File::options()
            .create(true)
            .append(true)
            .open(output)
            .unwrap();
        let mut command = Command::new(self.bin.join(program));
        command
            .current_dir(&self.folder)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output);
        if let Some((user, group)) = self.owner {
            command.uid(user).gid(group);
        }
        command
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let mut command = self.command("pg_ctl");
        command.arg("-D").arg(self.data());
        // Fails if the test has stopped the server itself.
        let _ = command
            .args(["-w", "-s", "-m", "immediate", "stop"])
            .status();
        let _ = fs::remove_dir_all(&self.folder);
    }
}

fn running_as_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    // The owner of our own entry in /proc is our effective user.
    fs::metadata(Path::new("/proc/self")).is_ok_and(|own| own.uid() == 0)
}

/// The user and group id of a user of this machine.
fn ids_of(user: &str) -> (u32, u32) {
    let users = fs::read_to_string("/etc/passwd").unwrap();
    let entry = users.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(user)).then(|| {
            let mut ids = fields.skip(1).map(|id| id.parse().unwrap());
            (ids.next().unwrap(), ids.next().unwrap())
        })
    });
    entry.unwrap_or_else(|| {
        panic!(
            "the tests run as root and need the user {user} to run Postgres, which does not exist"
        )
    })
}
