//! The measurement: the sides take turns. The first round is a warm-up and is ignored. Each later round gives one
//! sample of every figure. The CPU seconds of the processes are read from the kernel before and after each turn.

use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use futures_util::future::BoxFuture;
use tokio::{task::JoinSet, time};

use crate::{flame, pace::Latencies};

/// Time limit of everything that a turn waits for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
/// The figures of an open loop, and the shares of calls that they stand for.
pub(crate) const QUANTILES: [(&str, f64); 3] = [("p50", 0.5), ("p99", 0.99), ("p99.9", 0.999)];
/// Ticks of `/proc/<pid>/stat` in a second: a constant of Linux's interface, whatever the kernel's own clock.
const TICKS_PER_SECOND: f64 = 100.0;

/// The number and the length of turns.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scale {
    pub quick: bool,
    /// Rounds after the warm-up.
    pub rounds: usize,
    /// How long the turn of one side generates load.
    pub turn: Duration,
    /// The row whose flame graphs are drawn, if any.
    pub flame: Option<&'static str>,
}

impl Scale {
    pub(crate) fn full() -> Self {
        Self { quick: false, rounds: 5, turn: Duration::from_secs(2), flame: None }
    }

    /// A short run that only shows that everything works. Its figures mean nothing.
    pub(crate) fn quick() -> Self {
        Self { quick: true, rounds: 1, turn: Duration::from_millis(150), flame: None }
    }

    pub(crate) fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }

    /// The same scale with `full` rounds, for rows whose turns are long.
    pub(crate) fn rounds(mut self, full: usize) -> Self {
        self.rounds = self.pick(full, 1);
        self
    }
}

/// The result of one turn of one side: figures by name, and the number of messages or calls by which its CPU seconds
/// are divided.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turn {
    pub figures: Vec<(&'static str, f64)>,
    pub messages: u64,
    /// All latencies, if the turn is an open loop.
    pub latencies: Option<Latencies>,
}

impl Turn {
    /// The figure `rate`: messages per second.
    pub(crate) fn rate(messages: u64, elapsed: Duration) -> Self {
        Self { figures: vec![("rate", messages as f64 / elapsed.as_secs_f64())], messages, latencies: None }
    }

    /// The figures `p50` and `p99` in seconds.
    pub(crate) fn times(mut times: Vec<Duration>) -> Result<Self> {
        times.sort_unstable();
        let quantile = |share: f64| {
            let at = ((times.len() as f64 * share).ceil() as usize).clamp(1, times.len().max(1)) - 1;
            times.get(at).map(Duration::as_secs_f64).context("a turn without a single sample")
        };
        let figures = vec![("p50", quantile(0.5)?), ("p99", quantile(0.99)?)];
        Ok(Self { figures, messages: times.len() as u64, latencies: None })
    }

    /// The figures `p50`, `p99` and `p99.9` in seconds.
    pub(crate) fn distribution(latencies: Latencies) -> Result<Self> {
        ensure!(latencies.count() > 0, "a turn without a single sample");
        let figures = QUANTILES.iter().map(|(name, share)| (*name, latencies.quantile(*share))).collect();
        Ok(Self { figures, messages: latencies.count(), latencies: Some(latencies) })
    }

    /// One figure in seconds.
    pub(crate) fn time(name: &'static str, time: Duration) -> Self {
        Self { figures: vec![(name, time.as_secs_f64())], ..Self::default() }
    }
}

/// One side of a comparison.
pub(crate) struct Side {
    name: &'static str,
    processes: Vec<(&'static str, u32)>,
    work: Box<dyn FnMut() -> BoxFuture<'static, Result<Turn>>>,
}

impl Side {
    /// A side whose turn is `work`. Its cost is the CPU time that `processes` and the load generator spend meanwhile.
    pub(crate) fn new<F>(
        name: &'static str,
        processes: &[(&'static str, u32)],
        mut work: impl FnMut() -> F + 'static,
    ) -> Self
    where
        F: Future<Output = Result<Turn>> + Send + 'static,
    {
        let mut processes = processes.to_vec();
        processes.push(("generator", std::process::id()));
        Self { name, processes, work: Box::new(move || Box::pin(work())) }
    }

    async fn turn(&mut self) -> Result<Turn> {
        // on a thread of the runtime, as the tasks that it talks to
        let mut turn = JoinSet::new();
        turn.spawn((self.work)());
        let done = async { turn.join_next().await.context("a turn")?? };
        within(PATIENCE * 2, self.name, done).await
    }
}

/// The samples of a side: one of each figure for each round.
#[derive(Clone, Debug, Default)]
pub(crate) struct Measured {
    pub side: &'static str,
    pub figures: BTreeMap<&'static str, Vec<f64>>,
    /// CPU seconds of each process per million messages.
    pub cpu: BTreeMap<&'static str, Vec<f64>>,
    /// The latencies of all rounds, if the turns are open loops.
    pub latencies: Option<Latencies>,
}

impl Measured {
    pub(crate) fn figure(&self, name: &str) -> Result<Vec<f64>> {
        self.figures.get(name).cloned().with_context(|| format!("{} did not measure {name}", self.side))
    }

    /// CPU seconds of these processes together, per million messages.
    pub(crate) fn cpu_of(&self, processes: &[&str]) -> Result<Vec<f64>> {
        let mut sum: Vec<f64> = Vec::new();
        for process in processes {
            let samples = self.cpu.get(process).with_context(|| format!("{} has no {process}", self.side))?;
            sum.resize(samples.len(), 0.0);
            sum.iter_mut().zip(samples).for_each(|(sum, sample)| *sum += sample);
        }
        Ok(sum)
    }

    fn take(&mut self, turn: &Turn, spent: &[(&'static str, f64)]) {
        for (name, value) in &turn.figures {
            self.figures.entry(name).or_default().push(*value);
        }
        match (&mut self.latencies, &turn.latencies) {
            (Some(all), Some(more)) => all.add(more),
            (all, more) => all.clone_from(more),
        }
        if turn.messages > 0 {
            for (process, seconds) in spent {
                self.cpu.entry(process).or_default().push(seconds / turn.messages as f64 * 1e6);
            }
        }
    }
}

/// Runs the sides in turns. Each round begins with another side. The first round is ignored.
pub(crate) async fn in_turns<const N: usize>(scale: &Scale, mut sides: [Side; N]) -> Result<[Measured; N]> {
    let mut measured: [Measured; N] =
        std::array::from_fn(|at| Measured { side: sides.get(at).map_or("", |side| side.name), ..Measured::default() });
    for round in 0..=scale.rounds {
        for step in 0..N {
            let at = (round + step) % N;
            let (Some(side), Some(measured)) = (sides.get_mut(at), measured.get_mut(at)) else { continue };
            let before: Vec<f64> = read_cpu(&side.processes)?;
            let turn = side.turn().await?;
            let after = read_cpu(&side.processes)?;
            let spent: Vec<_> = (side.processes.iter().zip(before.iter().zip(&after)))
                .map(|((process, _), (before, after))| (*process, after - before))
                .collect();
            if round > 0 {
                measured.take(&turn, &spent);
            }
        }
    }
    if let Some(row) = scale.flame {
        // after the samples: watching costs time
        for side in &mut sides {
            if let Some((_, service)) = side.processes.iter().copied().find(|(name, _)| *name == "service")
                && side.name.starts_with("unibus")
            {
                let watched = flame::watch(service).await?;
                side.turn().await?;
                watched.draw(row, side.name).await?;
            }
        }
    }
    Ok(measured)
}

/// Runs `work`. Fails with the name `what` when it takes longer than `limit`.
pub(crate) async fn within<T>(limit: Duration, what: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    match time::timeout(limit, work).await {
        Ok(done) => done.with_context(|| what.to_owned()),
        Err(_) => bail!("{what}: not done within {limit:?}"),
    }
}

/// Makes one call after the other for `duration`. Returns the figures `p50` and `p99`.
pub(crate) async fn one_at_a_time<F>(duration: Duration, mut call: impl FnMut() -> F) -> Result<Turn>
where
    F: Future<Output = Result<()>>,
{
    let mut times = Vec::with_capacity(4096);
    let end = Instant::now() + duration;
    while Instant::now() < end {
        let started = Instant::now();
        call().await?;
        times.push(started.elapsed());
    }
    Turn::times(times)
}

/// Keeps `callers` calls under way for `duration`. Returns the figure `rate`. A call receives the number of its caller,
/// and the number of earlier calls of this caller.
pub(crate) async fn together<F>(
    callers: usize,
    duration: Duration,
    call: impl Fn(usize, u64) -> F + Clone + Send + 'static,
) -> Result<Turn>
where
    F: Future<Output = Result<()>> + Send,
{
    let started = Instant::now();
    let mut tasks = JoinSet::new();
    for caller in 0..callers {
        let call = call.clone();
        tasks.spawn(async move {
            let mut done = 0;
            while started.elapsed() < duration {
                call(caller, done).await?;
                done += 1;
            }
            anyhow::Ok(done)
        });
    }
    let mut total = 0;
    while let Some(done) = tasks.join_next().await {
        total += done??;
    }
    Ok(Turn::rate(total, started.elapsed()))
}

/// Sends messages for `duration`, at most `most` of them and with at most `window` unanswered ones, and waits for the
/// remaining answers. Returns the number of messages and the time that they took. `send` returns the future of an
/// answer.
pub(crate) async fn windowed<F, A>(
    duration: Duration,
    most: u64,
    window: usize,
    mut send: impl FnMut(u64) -> F,
) -> Result<(u64, Duration)>
where
    F: Future<Output = Result<A>>,
    A: Future<Output = Result<()>>,
{
    let started = Instant::now();
    let mut waiting = VecDeque::with_capacity(window);
    let mut count = 0;
    while count < most && started.elapsed() < duration {
        if waiting.len() >= window
            && let Some(oldest) = waiting.pop_front()
        {
            oldest.await?;
        }
        waiting.push_back(Box::pin(send(count).await?));
        count += 1;
    }
    for answer in waiting {
        answer.await?;
    }
    Ok((count, started.elapsed()))
}

fn read_cpu(processes: &[(&'static str, u32)]) -> Result<Vec<f64>> {
    processes.iter().map(|(_, pid)| cpu_seconds(*pid)).collect()
}

/// The CPU seconds that a process has spent so far, in user space and in the kernel.
pub(crate) fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).context("a process of the benchmark is gone")?;
    // the name may contain anything; utime and stime are the 12th and 13th field after it (proc_pid_stat(5))
    let (_, fields) = stat.rsplit_once(") ").context("a line of /proc/<pid>/stat")?;
    let ticks = fields.split(' ').skip(11).take(2).map(str::parse::<u64>).sum::<Result<u64, _>>()?;
    Ok(ticks as f64 / TICKS_PER_SECOND)
}

/// The resident memory of a process, in bytes.
pub(crate) fn resident_bytes(pid: u32) -> Result<f64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).context("a process of the benchmark is gone")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024.0)
}

/// The CPU use of each process over `span`, in percent of one core.
pub(crate) async fn busy_percent<const N: usize>(processes: [u32; N], span: Duration) -> Result<[f64; N]> {
    let mut percent = [0.0; N];
    let started = Instant::now();
    for (percent, pid) in percent.iter_mut().zip(processes) {
        *percent = -cpu_seconds(pid)?;
    }
    time::sleep(span).await;
    let elapsed = started.elapsed().as_secs_f64();
    for (percent, pid) in percent.iter_mut().zip(processes) {
        *percent = (*percent + cpu_seconds(pid)?) / elapsed * 100.0;
    }
    Ok(percent)
}
