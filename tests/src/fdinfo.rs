//! What the kernel tells of the descriptors that a process holds, in `/proc/PID/fdinfo`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::Context as _;

/// The text of each.
///
/// # Errors
///
/// The process has ended, or is somebody else's.
pub fn of_process(pid: u32) -> anyhow::Result<Vec<String>> {
    let directory = Path::new("/proc").join(pid.to_string()).join("fdinfo");
    let entries = fs::read_dir(&directory).with_context(|| format!("list {}", directory.display()))?;
    let mut texts = Vec::new();
    for entry in entries {
        // One that was closed meanwhile is held no longer.
        texts.extend(fs::read_to_string(entry?.path()).ok());
    }
    Ok(texts)
}

/// A field of such a text, if there is one and it reads so.
pub fn field<T: FromStr>(text: &str, name: &str) -> Option<T> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse().ok())
}

/// The ids of the hash maps that a process holds whose keys and values have these sizes.
///
/// # Errors
///
/// The process has ended, or is somebody else's.
pub fn hashes(pid: u32, key: usize, value: usize) -> anyhow::Result<BTreeSet<u32>> {
    /// `BPF_MAP_TYPE_HASH`.
    const HASH: usize = 1;
    let wanted = [Some(HASH), Some(key), Some(value)];
    let texts = of_process(pid)?;
    let maps = texts
        .iter()
        .filter(|text| ["map_type", "key_size", "value_size"].map(|name| field(text, name)) == wanted);
    Ok(maps.filter_map(|text| field(text, "map_id")).collect())
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn programs_are_told_from_other_descriptors() {
        let text =
            "pos:\t0\nflags:\t02000002\nprog_type:\t18\nprog_id:\t42\nrun_time_ns:\t900\nrun_cnt:\t9\n";
        assert_eq!((field(text, "prog_id"), field(text, "run_cnt")), (Some(42), Some(9.0)));
        // That of a link, which tells its program's id too.
        let text = "link_type:\tcgroup\nlink_id:\t3\nprog_tag:\t0\nprog_id:\t42\n";
        assert_eq!(field::<f64>(text, "run_cnt"), None);
    }
}
