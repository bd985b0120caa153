//! What the programs keep of their decisions, as `bpftool` shows it.

use anyhow::Context as _;
use enforcer_common::kept::{KeptVerdict, VerdictKey};
use enforcer_common::layout::Active;
use enforcer_common::limits::{MAX_VERDICTS, VERDICT_PLACE_BYTES};
use enforcer_common::{Asked, Port, Protocol};

use crate::{bpftool, fdinfo};

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: usize = 2;
/// Where the words stand behind the lock.
const WORDS: usize = 8;

/// A TCP call of a cgroup at a cgroup.
#[derive(Clone, Copy, Debug)]
pub struct Call {
    /// The id of the cgroup that calls.
    pub caller: u64,
    /// That of the one that is called.
    pub answerer: u64,
    /// Its port.
    pub port: u16,
}

/// Where a daemon's programs keep decisions, and which of them hold.
#[derive(Clone, Copy, Debug)]
pub struct Verdicts {
    places: u32,
    active: u32,
}

impl Verdicts {
    /// Those of a daemon.
    ///
    /// # Errors
    ///
    /// The process has ended, or holds no such maps.
    pub fn of(daemon: u32) -> anyhow::Result<Self> {
        let array = |value: usize, entries: usize| -> anyhow::Result<u32> {
            let wanted = [ARRAY, size_of::<u32>(), value, entries].map(Some);
            let fields = ["map_type", "key_size", "value_size", "max_entries"];
            let infos = fdinfo::of_process(daemon)?;
            let info = infos.iter().find(|info| fields.map(|name| fdinfo::field(info, name)) == wanted);
            info.and_then(|info| fdinfo::field(info, "map_id"))
                .context("a daemon without a map that it must have")
        };
        Ok(Self {
            places: array(VERDICT_PLACE_BYTES, usize::try_from(MAX_VERDICTS)?)?,
            active: array(size_of::<Active>(), 1)?,
        })
    }

    /// What is in force.
    ///
    /// # Errors
    ///
    /// `bpftool` cannot be run, or its answer not be understood.
    pub fn active(&self) -> anyhow::Result<Active> {
        let value =
            bpftool::value(self.active, &0_u32.to_ne_bytes())?.context("a map without its one value")?;
        Ok(Active(u32::from_ne_bytes(value.try_into().ok().context("a value of another size")?)))
    }

    /// Has another generation in force, as if so many had gone before.
    ///
    /// # Errors
    ///
    /// `bpftool` says why.
    pub fn set_generation(&self, generation: u8) -> anyhow::Result<()> {
        let next = self.active()?.in_generation(generation);
        bpftool::write(self.active, &0_u32.to_ne_bytes(), &next.0.to_ne_bytes())
    }

    /// What stands where the programs look now for what is kept of a call; all zero if nothing was ever written there.
    ///
    /// # Errors
    ///
    /// `bpftool` cannot be run, or its answer not be understood.
    pub fn at(&self, call: Call) -> anyhow::Result<[u64; KeptVerdict::WORDS]> {
        let value = bpftool::value(self.places, &self.place(call)?.to_ne_bytes())?;
        words(&value.context("a place that there is not")?)
    }

    /// Whether that is of this call and of the generation in force.
    ///
    /// # Errors
    ///
    /// As for [`at`](Self::at).
    pub fn has(&self, call: Call) -> anyhow::Result<bool> {
        let generation = u64::from(self.active()?.generation());
        let found = self.at(call)?;
        let tags = found.iter().all(|word| word & 0xff == generation);
        Ok(generation != 0 && tags && found[0] >> 8 == call.caller && found[1] >> 8 == call.answerer)
    }

    /// Writes words there, whatever stands there.
    ///
    /// # Errors
    ///
    /// `bpftool` says why.
    pub fn write(&self, call: Call, words: [u64; KeptVerdict::WORDS]) -> anyhow::Result<()> {
        bpftool::write(self.places, &self.place(call)?.to_ne_bytes(), &bytes(words))
    }

    /// Has everything forgotten that is kept.
    ///
    /// # Errors
    ///
    /// `bpftool` says why.
    pub fn forget(&self) -> anyhow::Result<()> {
        for (place, value) in bpftool::dump(self.places)? {
            if words(&value)? != [0; KeptVerdict::WORDS] {
                bpftool::write(self.places, &place, &bytes([0; KeptVerdict::WORDS]))?;
            }
        }
        Ok(())
    }

    /// The words of a verdict on the first call, as they would stand there if they had been written in `generation`, and of the
    /// second one.
    ///
    /// # Errors
    ///
    /// As for [`at`](Self::at).
    pub fn forge(&self, kept: Call, of: Call, generation: u8) -> anyhow::Result<Forged> {
        let active = self.active()?;
        let key = of.key(active.in_generation(generation));
        let found = KeptVerdict::from_words(self.at(kept)?);
        let decision = found.decision(&kept.key(active), Asked::NOBODY).context("nothing is kept")?;
        let forged = KeptVerdict::of(&decision, Asked::NOBODY, &key).context("not to be kept")?;
        Ok(Forged { place: key.index(), words: *forged.words() })
    }

    /// Writes what was forged.
    ///
    /// # Errors
    ///
    /// `bpftool` says why.
    pub fn plant(&self, forged: &Forged) -> anyhow::Result<()> {
        bpftool::write(self.places, &forged.place.to_ne_bytes(), &bytes(forged.words))
    }

    fn place(&self, call: Call) -> anyhow::Result<u32> {
        Ok(call.key(self.active()?).index())
    }
}

impl Call {
    fn key(self, active: Active) -> VerdictKey {
        VerdictKey::new(active, self.caller, self.answerer, Protocol::TCP, Port::new(self.port))
    }
}

/// A verdict that no program has made.
#[derive(Clone, Debug)]
pub struct Forged {
    place: u32,
    /// Its words.
    pub words: [u64; KeptVerdict::WORDS],
}

fn words(value: &[u8]) -> anyhow::Result<[u64; KeptVerdict::WORDS]> {
    let (words, _) = value.get(WORDS..).unwrap_or_default().as_chunks();
    let words: Vec<u64> = words.iter().map(|bytes| u64::from_ne_bytes(*bytes)).collect();
    words.first_chunk().copied().context("a value of another size")
}

fn bytes(words: [u64; KeptVerdict::WORDS]) -> Vec<u8> {
    let mut bytes = vec![0; WORDS];
    bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    bytes.resize(VERDICT_PLACE_BYTES, 0);
    bytes
}
