//! `dfs-directory`: a member of the directory service.

use clap::Parser;
use dfs_directory::config::Config;
use dfs_directory::full_disk;
use std::process::ExitCode;
use tokio::signal::unix::{SignalKind, signal};

fn main() -> ExitCode {
    env_logger::Builder::from_env(env_logger::Env::default().default_filter_or("info")).init();
    let config = Config::parse();
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(e) => {
            log::error!("{e}");
            ExitCode::FAILURE
        }
    }
}

fn run(config: Config) -> Result<(), Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut stop = Box::pin(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        });
        let data = config.data.clone();
        let ended = Box::pin(dfs_directory::node::run(config, &mut stop)).await;
        match ended {
            Err(e) if full_disk::is_cause(&e, &data) => {
                log::error!("{e}");
                tokio::select! {
                    () = full_disk::wait_for_space(&data) => Err(full_disk::begin_anew().into()),
                    () = stop => Ok(()),
                }
            }
            ended => Ok(ended?),
        }
    })
}
