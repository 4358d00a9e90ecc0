//! Real servers: started on a free port with a fresh directory, paused, killed by their own id.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub struct Server {
    child: Child,
    dir: PathBuf,
    pub port: u16,
}
impl Server {
    pub fn start(program: &str, args: impl Fn(&str, &str) -> Vec<String>) -> Self {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let dir = std::env::temp_dir().join(format!("spike-{program}-{port}"));
        std::fs::create_dir_all(&dir).unwrap();
        let path = format!("{}:/usr/sbin", std::env::var("PATH").unwrap_or_default());
        let child = Command::new(program)
            .env("PATH", path)
            .args(args(&port.to_string(), dir.to_str().unwrap()))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect(program);
        let until = Instant::now() + Duration::from_secs(5);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(Instant::now() < until, "{program} does not listen");
            std::thread::sleep(Duration::from_millis(20));
        }
        Self { child, dir, port }
    }
    fn signal(&self, signal: &str) {
        assert!(
            Command::new("kill")
                .args([signal, &self.child.id().to_string()])
                .status()
                .unwrap()
                .success()
        );
    }
    pub fn pause(&self) {
        self.signal("-STOP");
        while !std::fs::read_to_string(format!("/proc/{}/stat", self.child.id()))
            .unwrap()
            .contains(") T ")
        {
            std::thread::yield_now();
        }
    }
    pub fn resume(&self) {
        self.signal("-CONT");
    }
}
impl Drop for Server {
    fn drop(&mut self) {
        let _ = (self.child.kill(), self.child.wait());
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}
