//! One run of a virtual machine without hardware virtualisation: what it says on its second serial line, in time.

use std::fs::File;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::run::{command, find};

/// The emulator, and the Debian package that brings it.
pub(crate) const PROGRAM: (&str, &str) = ("qemu-system-x86_64", "qemu-system-x86");
/// Memory in MiB: the initramfs twice while it is unpacked, the default tables, two agents.
const MEMORY: u32 = 2048;

/// A machine that runs; it ends when this is dropped.
struct Machine(Child);

impl Drop for Machine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots a kernel with an initramfs. Each line of the second serial line goes to `heard`; the first one goes to `log`.
/// An error if the machine is not done within `limit`.
pub(crate) fn run(
    kernel: &Path,
    initramfs: &Path,
    log: &Path,
    limit: Duration,
    mut heard: impl FnMut(&str),
) -> Result<()> {
    let mut child = emulator(kernel, initramfs, log)?.spawn().context("cannot start QEMU")?;
    let said = child.stdout.take().context("QEMU has a standard output")?;
    let machine = Machine(child);
    let (sender, lines) = mpsc::channel();
    // Ends with the machine, whose line it reads.
    std::thread::spawn(move || {
        for line in BufReader::new(said).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let deadline = Instant::now() + limit;
    loop {
        match lines.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) if line.trim_end() == "end" => break,
            Ok(line) => heard(line.trim_end()),
            Err(RecvTimeoutError::Timeout) => {
                bail!("it is not done within {} s; its console: {}", limit.as_secs(), log.display())
            }
            Err(RecvTimeoutError::Disconnected) => {
                bail!("the machine stopped before the end; its console: {}", log.display())
            }
        }
    }
    drop(machine);
    Ok(())
}

fn emulator(kernel: &Path, initramfs: &Path, log: &Path) -> Result<Command> {
    let program = find(PROGRAM.0).with_context(|| format!("{} is missing", PROGRAM.0))?;
    // TCG, not KVM: it works inside of any machine, also where nested virtualisation is there but hangs.
    let words = "-accel tcg,thread=multi -cpu max -smp 2 -nodefaults -no-user-config -display none -no-reboot";
    // It ends with this process, however that ends.
    let mut emulator = command("setpriv", &["--pdeathsig", "KILL", "--"]);
    emulator.arg(program).args(words.split(' '));
    emulator.args(["-m", &MEMORY.to_string()]);
    emulator.arg("-kernel").arg(kernel).arg("-initrd").arg(initramfs);
    // A fault of the kernel ends the machine at once; nothing waits for a device that is not there.
    emulator.args(["-append", "console=ttyS0 quiet panic=-1 oops=panic"]);
    emulator.args(["-serial", &format!("file:{}", log.display()), "-serial", "stdio"]);
    File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    emulator.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::inherit());
    Ok(emulator)
}
