//! Reads the server's own state with a raw client, beside the driver under test.

use async_nats::jetstream::{self, consumer::PullConsumer};
use catga_core::async_trait;
use redis::cmd;

#[async_trait]
pub trait Probe: Send + Sync {
    async fn version(&self) -> String;
    /// Messages stored for a message's name.
    async fn stored(&self, name: &str) -> u64;
    /// Deliveries that the server holds as unacknowledged for a group.
    async fn pending(&self, name: &str, group: &str) -> u64;
    /// Makes the server refuse to store more, or lets it again.
    async fn fill(&self, name: &str, full: bool);
}

pub struct NatsProbe(pub jetstream::Context);
#[async_trait]
impl Probe for NatsProbe {
    async fn version(&self) -> String {
        format!("nats-server {}", self.0.client().server_info().version)
    }
    async fn stored(&self, name: &str) -> u64 {
        match self
            .0
            .get_stream(format!("spike~{}", name.replace('.', "=")))
            .await
        {
            Ok(s) => s.cached_info().state.messages,
            Err(_) => 0,
        }
    }
    async fn pending(&self, name: &str, group: &str) -> u64 {
        let stream = self
            .0
            .get_stream(format!("spike~{}", name.replace('.', "=")))
            .await
            .unwrap();
        let mut c: PullConsumer = stream.get_consumer(&group.replace('.', "=")).await.unwrap();
        c.info().await.unwrap().num_ack_pending as u64
    }
    async fn fill(&self, name: &str, full: bool) {
        let mut config = self
            .0
            .get_stream(format!("spike~{}", name.replace('.', "=")))
            .await
            .unwrap()
            .cached_info()
            .config
            .clone();
        config.max_messages = if full {
            self.stored(name).await as i64
        } else {
            -1
        };
        self.0.update_stream(config).await.unwrap();
    }
}

pub struct RedisProbe(pub redis::aio::ConnectionManager);
#[async_trait]
impl Probe for RedisProbe {
    async fn version(&self) -> String {
        let info: String = cmd("INFO")
            .arg("server")
            .query_async(&mut self.0.clone())
            .await
            .unwrap();
        format!(
            "redis-server {}",
            info.lines()
                .find_map(|l| l.strip_prefix("redis_version:"))
                .unwrap()
        )
    }
    async fn stored(&self, name: &str) -> u64 {
        cmd("XLEN")
            .arg(format!("{{spike:{name}}}"))
            .query_async(&mut self.0.clone())
            .await
            .unwrap()
    }
    async fn pending(&self, name: &str, group: &str) -> u64 {
        let v: redis::Value = cmd("XPENDING")
            .arg(format!("{{spike:{name}}}"))
            .arg(group)
            .query_async(&mut self.0.clone())
            .await
            .unwrap();
        match v {
            redis::Value::Array(a) => match a[0] {
                redis::Value::Int(n) => n as u64,
                _ => 0,
            },
            _ => 0,
        }
    }
    async fn fill(&self, _: &str, full: bool) {
        let mut c = self.0.clone();
        let _: () = cmd("CONFIG")
            .arg("SET")
            .arg("maxmemory-policy")
            .arg("noeviction")
            .query_async(&mut c)
            .await
            .unwrap();
        let _: () = cmd("CONFIG")
            .arg("SET")
            .arg("maxmemory")
            .arg(if full { "1mb" } else { "0" })
            .query_async(&mut c)
            .await
            .unwrap();
    }
}
