//! What the programs keep of their decisions, as `bpftool` shows it.

use anyhow::Context as _;
use enforcer_common::kept::{KeptVerdict, VerdictKey};
use enforcer_common::layout::Active;
use enforcer_common::limits::{MAX_VERDICTS, VERDICT_PLACE_BYTES};

use crate::{bpftool, fdinfo};

/// `BPF_MAP_TYPE_ARRAY`.
const ARRAY: usize = 2;
/// Where the words stand behind the lock.
const WORDS: usize = 8;

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
        let active = self.active()?;
        let next = active.with(active.slot(), active.is_armed(), active.is_refusing(), generation);
        bpftool::write(self.active, &0_u32.to_ne_bytes(), &next.0.to_ne_bytes())
    }

    /// What was written, and where, of whatever generation.
    ///
    /// # Errors
    ///
    /// `bpftool` cannot be run, or its answer not be understood.
    pub fn all(&self) -> anyhow::Result<Vec<(u32, [u64; KeptVerdict::WORDS])>> {
        let mut found = Vec::new();
        for (key, value) in bpftool::dump(self.places)? {
            let place = u32::from_ne_bytes(key.try_into().ok().context("a key of another size")?);
            let mut words = [0; KeptVerdict::WORDS];
            let (bytes, _) = value.get(WORDS..).unwrap_or_default().as_chunks();
            for (word, bytes) in words.iter_mut().zip(bytes) {
                *word = u64::from_ne_bytes(*bytes);
            }
            if words != [0; KeptVerdict::WORDS] {
                found.push((place, words));
            }
        }
        Ok(found)
    }

    /// What is kept in the generation in force.
    ///
    /// # Errors
    ///
    /// `bpftool` cannot be run, or its answer not be understood.
    pub fn held(&self) -> anyhow::Result<Vec<(u32, [u64; KeptVerdict::WORDS])>> {
        let [_, _, _, generation] = self.active()?.0.to_le_bytes();
        let all = self.all()?.into_iter();
        Ok(all.filter(|(_, words)| words.iter().all(|word| word.to_le_bytes()[0] == generation)).collect())
    }

    /// Writes words to a place, whatever is there.
    ///
    /// # Errors
    ///
    /// `bpftool` says why.
    pub fn write(&self, place: u32, words: [u64; KeptVerdict::WORDS]) -> anyhow::Result<()> {
        bpftool::write(self.places, &place.to_ne_bytes(), &bytes(words))
    }

    /// Writes the same words to every place.
    ///
    /// # Errors
    ///
    /// `bpftool` says why.
    pub fn fill(&self, words: [u64; KeptVerdict::WORDS]) -> anyhow::Result<()> {
        let places = (0..MAX_VERDICTS).map(|place| (place.to_ne_bytes().to_vec(), bytes(words)));
        bpftool::fill(self.places, &places.collect::<Vec<_>>())
    }

    /// Has everything forgotten that is kept.
    ///
    /// # Errors
    ///
    /// `bpftool` says why.
    pub fn forget(&self) -> anyhow::Result<()> {
        self.all()?.into_iter().try_for_each(|(place, _)| self.write(place, [0; KeptVerdict::WORDS]))
    }

    /// Where the programs look for what is kept of a call now.
    ///
    /// # Errors
    ///
    /// As for [`active`](Self::active).
    pub fn place(&self, key: impl FnOnce(Active) -> VerdictKey) -> anyhow::Result<u32> {
        Ok(key(self.active()?).index())
    }
}

fn bytes(words: [u64; KeptVerdict::WORDS]) -> Vec<u8> {
    let mut bytes = vec![0; WORDS];
    bytes.extend(words.iter().flat_map(|word| word.to_ne_bytes()));
    bytes.resize(VERDICT_PLACE_BYTES, 0);
    bytes
}
