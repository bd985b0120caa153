//! What is attached to a cgroup, as `bpftool` tells it: by a way that shares no code with the product.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde_json::Value;

/// A program that is attached to a cgroup by a link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Attached {
    /// The program's name.
    pub name: String,
    /// The link's id.
    pub link: u64,
    /// Bytes of the program after the verifier.
    pub bytes: u64,
    /// Names of the maps that its instructions refer to after the verifier has removed the unreachable ones, sorted.
    pub maps: BTreeSet<String>,
}

/// Every link to `cgroup`, sorted by the names of their programs.
///
/// # Errors
///
/// `bpftool` cannot be run, or its answer not be understood.
pub fn links(cgroup: &Path) -> anyhow::Result<Vec<Attached>> {
    let id = cgroup.metadata()?.ino();
    let mut found = Vec::new();
    for link in every("link")? {
        if link["cgroup_id"].as_u64() != Some(id) {
            continue;
        }
        let id = link["prog_id"].to_string();
        let program = ask(&["prog", "show", "id", &id])?;
        let code = run(&["prog", "dump", "xlated", "id", &id])?;
        let mut maps = BTreeSet::new();
        for map in list(&program["map_ids"]) {
            if code.contains(&format!("map[id:{map}]")) {
                let map = ask(&["map", "show", "id", &map.to_string()])?;
                maps.insert(map["name"].as_str().unwrap_or_default().to_owned());
            }
        }
        found.push(Attached {
            name: program["name"].as_str().context("program without a name")?.to_owned(),
            link: link["id"].as_u64().context("link without an id")?,
            bytes: program["bytes_xlated"].as_u64().context("program without a size")?,
            maps,
        });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    Ok(found)
}

/// The names of the programs that are attached to `cgroup` by links, sorted; as [`links`] tells them, and faster.
///
/// # Errors
///
/// `bpftool` cannot be run, or its answer not be understood.
pub fn linked(cgroup: &Path) -> anyhow::Result<Vec<String>> {
    let id = cgroup.metadata()?.ino();
    let links = every("link")?;
    let programs = every("prog")?;
    let name = |link: &Value| {
        let program = programs.iter().find(|program| program["id"] == link["prog_id"]);
        program.and_then(|program| program["name"].as_str()).unwrap_or_default().to_owned()
    };
    let mut names: Vec<String> =
        links.iter().filter(|link| link["cgroup_id"].as_u64() == Some(id)).map(name).collect();
    names.sort();
    Ok(names)
}

/// The hooks of `cgroup` that have a link, by the kernel's names, sorted. `bpftool` leaves out of [`programs`] and of
/// [`linked`] what is replaced between being listed and being looked at; a link that is told has a program.
///
/// # Errors
///
/// `bpftool` cannot be run, or its answer not be understood.
pub fn held(cgroup: &Path) -> anyhow::Result<Vec<String>> {
    let id = cgroup.metadata()?.ino();
    let links = every("link")?;
    let here = links.iter().filter(|link| link["cgroup_id"].as_u64() == Some(id));
    let mut hooks: Vec<String> = here.map(|link| link["attach_type"].to_string()).collect();
    hooks.sort();
    Ok(hooks)
}

/// The names of the programs that are attached to `cgroup` in whatever way, sorted.
///
/// # Errors
///
/// `bpftool` cannot be run, or its answer not be understood.
pub fn programs(cgroup: &Path) -> anyhow::Result<Vec<String>> {
    let path = cgroup.to_str().context("cgroup without a printable path")?;
    let shown = list(&ask(&["cgroup", "show", path])?);
    let mut names: Vec<String> =
        shown.iter().filter_map(|program| program["name"].as_str()).map(str::to_owned).collect();
    names.sort();
    Ok(names)
}

/// Takes a link off its hook, while its owner goes on holding it.
///
/// # Errors
///
/// `bpftool` says why.
pub fn detach(link: u64) -> anyhow::Result<()> {
    ask(&["link", "detach", "id", &link.to_string()]).map(drop)
}

/// Makes a small map and pins it.
///
/// # Errors
///
/// `bpftool` says why.
pub fn pin_new_map(at: &Path) -> anyhow::Result<()> {
    let path = at.to_str().context("a pin without a printable path")?;
    ask(&["map", "create", path, "type", "array", "key", "4", "value", "4", "entries", "1", "name", "theirs"])
        .map(drop)
}

/// Makes an array of rows of numbers with this name, which may be one of the product's, and pins it.
///
/// # Errors
///
/// `bpftool` says why.
pub fn pin_rows(at: &Path, name: &str, rows: &[Vec<u64>]) -> anyhow::Result<()> {
    let path = at.to_str().context("a pin without a printable path")?;
    let bytes = rows.first().map_or(0, |row| row.len() * size_of::<u64>()).to_string();
    let (value, entries) = (bytes.as_str(), rows.len().to_string());
    let shape = ["type", "array", "key", "4", "value", value, "entries", &entries, "name", name];
    ask(&[&["map", "create", path][..], &shape].concat())?;
    for (key, row) in (0_u32..).zip(rows) {
        let text = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>();
        let (key, value) = (
            text(&key.to_ne_bytes()),
            text(&row.iter().flat_map(|number| number.to_ne_bytes()).collect::<Vec<_>>()),
        );
        let words = [
            &["map", "update", "pinned", path, "key"].map(str::to_owned)[..],
            &key,
            &["value".to_owned()],
            &value,
        ];
        let words = words.concat();
        ask(&words.iter().map(String::as_str).collect::<Vec<_>>())?;
    }
    Ok(())
}

/// The rows of numbers of the array that is pinned at a path.
///
/// # Errors
///
/// `bpftool` cannot be run, or there is none.
pub fn rows(at: &Path) -> anyhow::Result<Vec<Vec<u64>>> {
    let path = at.to_str().context("a pin without a printable path")?;
    let mut rows = Vec::new();
    for element in list(&ask(&["map", "dump", "pinned", path])?) {
        let mut bytes = Vec::new();
        for byte in list(&element["value"]) {
            let text = byte.as_str().unwrap_or_default().trim_start_matches("0x").to_owned();
            bytes.push(u8::from_str_radix(&text, 16).with_context(|| format!("{path}: {byte}"))?);
        }
        rows.push(bytes.as_chunks().0.iter().map(|number| u64::from_ne_bytes(*number)).collect());
    }
    Ok(rows)
}

/// Takes an entry out of a map. Returns whether it was there.
///
/// # Errors
///
/// `bpftool` cannot be run.
pub fn remove(map: u32, key: &[u8]) -> anyhow::Result<bool> {
    let mut command = Command::new("bpftool");
    command.args(["map", "delete", "id", &map.to_string(), "key"]).args(key.iter().map(u8::to_string));
    Ok(command.output().context("run bpftool")?.status.success())
}

/// The value behind a key; `None` if the map has not got it.
///
/// # Errors
///
/// `bpftool` cannot be run, or its answer not be understood.
pub fn value(map: u32, key: &[u8]) -> anyhow::Result<Option<Vec<u8>>> {
    let mut command = Command::new("bpftool");
    command.args(["-j", "map", "lookup", "id", &map.to_string(), "key"]).args(key.iter().map(u8::to_string));
    let output = command.output().context("run bpftool")?;
    if !output.status.success() {
        return Ok(None);
    }
    let entry: Value = serde_json::from_slice(&output.stdout)?;
    bytes(&entry["value"]).map(Some)
}

/// A list of bytes as `bpftool` writes them.
fn bytes(list: &Value) -> anyhow::Result<Vec<u8>> {
    let bytes = list_of(list).map(|byte| {
        let text = byte.as_str().context("no list of bytes")?;
        Ok(u8::from_str_radix(text.trim_start_matches("0x"), 16)?)
    });
    bytes.collect()
}

/// Writes an entry into a map, whatever is there.
///
/// # Errors
///
/// `bpftool` says why.
pub fn write(map: u32, key: &[u8], value: &[u8]) -> anyhow::Result<()> {
    let text = |bytes: &[u8]| bytes.iter().map(u8::to_string).collect::<Vec<_>>();
    let (id, key, value) = (map.to_string(), text(key), text(value));
    let (key, value) = (key.iter().map(String::as_str), value.iter().map(String::as_str));
    let words = ["map", "update", "id", &id, "key"].into_iter().chain(key).chain(["value"]).chain(value);
    ask(&words.collect::<Vec<_>>()).map(drop)
}

/// Every entry of a map: its key and its value.
///
/// # Errors
///
/// `bpftool` cannot be run, or its answer not be understood.
pub fn dump(map: u32) -> anyhow::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let entries = list(&ask(&["map", "dump", "id", &map.to_string()])?);
    entries.iter().map(|entry| Ok((bytes(&entry["key"])?, bytes(&entry["value"])?))).collect()
}

/// Takes every entry out of a map. Returns how many there were.
///
/// # Errors
///
/// `bpftool` says why.
pub fn empty_map(map: u32) -> anyhow::Result<usize> {
    let entries = dump(map)?;
    for (key, _) in &entries {
        ensure!(remove(map, key)?, "empty map {map}: it keeps {key:x?}");
    }
    Ok(entries.len())
}

/// The id of the link that is pinned at a path.
///
/// # Errors
///
/// `bpftool` cannot be run, or there is none.
pub fn pinned_link(at: &Path) -> anyhow::Result<u64> {
    let path = at.to_str().context("a pin without a printable path")?;
    let shown = ask(&["link", "show", "pinned", path])?;
    shown["id"].as_u64().with_context(|| format!("no link is pinned at {path}: {shown}"))
}

/// The name of the program with this id.
///
/// # Errors
///
/// `bpftool` cannot be run, or there is none.
pub fn program_name(id: u64) -> anyhow::Result<String> {
    let shown = ask(&["prog", "show", "id", &id.to_string()])?;
    Ok(shown["name"].as_str().context("program without a name")?.to_owned())
}

/// Whether there is a link with this id.
///
/// # Errors
///
/// `bpftool` cannot be run, or its answer not be understood.
pub fn has_link(id: u64) -> anyhow::Result<bool> {
    Ok(every("link")?.iter().any(|link| link["id"].as_u64() == Some(id)))
}

/// How often everything of a kind is asked for.
const TRIES: usize = 50;

/// Everything of a kind. `bpftool` gives up where one of them goes between being listed and being looked at, and other tests
/// come and go.
fn every(kind: &str) -> anyhow::Result<Vec<Value>> {
    let mut said = ask(&[kind, "show"]);
    for _ in 1..TRIES {
        if said.is_ok() {
            break;
        }
        said = ask(&[kind, "show"]);
    }
    Ok(list(&said?))
}

fn ask(arguments: &[&str]) -> anyhow::Result<Value> {
    let text = run(&[&["--json"], arguments].concat())?;
    if text.trim().is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_str(&text).with_context(|| format!("read what bpftool {arguments:?} says: {text}"))
}

fn run(arguments: &[&str]) -> anyhow::Result<String> {
    let output = Command::new("bpftool")
        .args(arguments)
        .output()
        .context("run bpftool\nhint: `cargo xtask setup --with-tests` installs it")?;
    let text = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "run bpftool {arguments:?}: {}: {text}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(text.into_owned())
}

fn list(value: &Value) -> Vec<Value> {
    list_of(value).cloned().collect()
}

fn list_of(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
