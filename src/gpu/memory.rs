//! How much memory a card has. No backend says it through safe calls, so the system is asked: files of Linux's drivers,
//! `nvidia-smi`, the registry of Windows, `sysctl` of macOS. Where nobody says, a size is assumed.

use crate::disk::{self, OnDisk};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc;
use std::time::Duration;

/// What tells one card from the others.
#[derive(Clone, Debug)]
pub(super) struct Card {
    /// Ids of vendor and device on the PCI bus.
    pub(super) ids: [u32; 2],
    /// Its place on that bus, such as `0000:01:00.0`; empty where the backend does not say.
    pub(super) bus: String,
    /// Whether it takes its memory from the system's.
    pub(super) shares: bool,
}

/// A card's memory, and who said so.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Size {
    pub(super) bytes: u64,
    pub(super) source: String,
}

/// Answers of programs, by program and arguments; None where one is missing or hangs.
type Ask<'a> = &'a dyn Fn(&str, &[&str]) -> Option<String>;

/// Where sizes are looked for.
struct System<'a> {
    /// The operating system, as [`std::env::consts::OS`] names it.
    os: &'a str,
    /// The folder in which its files lie.
    root: &'a Path,
    ask: Ask<'a>,
}

const NVIDIA: u32 = 0x10de;

/// The bytes that are assumed of a card whose size nobody says.
pub(super) const ASSUMED: u64 = 8 << 30;

/// The source of the assumed size, as reports give it.
pub(super) const NOBODY: &str = "assumed, since the system does not say";

/// No card that runs these kernels has less than the first or more than the second; a file or program that says so is
/// wrong.
const PLAUSIBLE: std::ops::RangeInclusive<u64> = 256 << 20..=2 << 40;

/// The memory of a card of this machine.
pub(super) fn of(card: &Card) -> Size {
    size(card, &System { os: std::env::consts::OS, root: Path::new("/"), ask: &answer })
}

fn size(card: &Card, system: &System) -> Size {
    let own = || own(card, system).filter(|size| PLAUSIBLE.contains(&size.bytes));
    let half = || system_memory(system).map(|bytes| Size { bytes: bytes / 2, source: "half of the system's".into() });
    let found = match card.shares {
        // Some firmware gives an integrated GPU most of the memory for its own, which the system then has no more.
        true => own().into_iter().chain(half()).max_by_key(|size| size.bytes),
        false => own(),
    };
    found.unwrap_or_else(|| Size { bytes: ASSUMED, source: NOBODY.into() })
}

/// What the system says of the card's own memory.
fn own(card: &Card, system: &System) -> Option<Size> {
    let by_files = || match system.os {
        "linux" => files(card, system.root),
        "windows" => registry(card, &(system.ask)("reg", &["query", DISPLAYS, "/s"])?),
        _ => None,
    };
    let by_nvidia = || {
        let query = ["--query-gpu=pci.bus_id,pci.device_id,memory.total", "--format=csv,noheader,nounits"];
        let told = (card.ids[0] == NVIDIA).then(|| (system.ask)("nvidia-smi", &query))??;
        nvidia(card, &told)
    };
    by_files().or_else(by_nvidia)
}

/// The smallest of the cards that may be meant: those on its place of the bus, else all of its kind.
fn smallest(card: &Card, alike: Vec<(String, Size)>) -> Option<Size> {
    let there = |bus: &str| !card.bus.is_empty() && bus.eq_ignore_ascii_case(&card.bus);
    let known = alike.iter().any(|(bus, _)| there(bus));
    alike.into_iter().filter(|(bus, _)| !known || there(bus)).map(|(_, size)| size).min_by_key(|size| size.bytes)
}

/// A number as drivers write it, in decimal or behind `0x`.
fn number(text: &str) -> Option<u64> {
    let text = text.trim();
    match text.strip_prefix("0x").or_else(|| text.strip_prefix("0X")) {
        Some(digits) => u64::from_str_radix(digits, 16).ok(),
        None => text.parse().ok(),
    }
}

fn read(file: impl AsRef<Path>) -> Option<String> {
    disk::read_to_string(file).ok()
}

/// What is in a folder whose name begins so; nothing where the folder cannot be read.
fn beginning(folder: &Path, start: &str) -> Vec<PathBuf> {
    let digits = |name: &str| name.strip_prefix(start).is_some_and(|n| n.bytes().all(|b| b.is_ascii_digit()));
    let entries = disk::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let mut found: Vec<PathBuf> =
        entries.filter(|path| path.file_name().and_then(|n| n.to_str()).is_some_and(digits)).collect();
    found.sort();
    found
}

/// What the files of Linux's drivers say: those of amdgpu, xe and i915.
fn files(card: &Card, root: &Path) -> Option<Size> {
    let mut alike = Vec::new();
    for folder in beginning(&root.join("sys/class/drm"), "card") {
        let device = folder.join("device");
        let id = |name: &str| number(&read(device.join(name))?);
        if [id("vendor"), id("device")] != card.ids.map(|id| Some(u64::from(id))) {
            continue;
        }
        let events = read(device.join("uevent")).unwrap_or_default();
        let bus = events.lines().find_map(|line| line.strip_prefix("PCI_SLOT_NAME=")).unwrap_or_default().trim();
        let whole = |file: PathBuf, driver: &str| Some((number(&read(file)?)?, driver.to_owned()));
        let tiles = || {
            let of = |tile: &PathBuf| {
                let name = "physical_vram_size_bytes";
                read(tile.join(name)).or_else(|| read(tile.join("memory").join(name))).and_then(|text| number(&text))
            };
            let bytes = beginning(&device, "tile").iter().filter_map(of).fold(0u64, u64::saturating_add);
            (bytes > 0).then(|| (bytes, "xe".to_owned()))
        };
        let found = whole(device.join("mem_info_vram_total"), "amdgpu")
            .or_else(tiles)
            .or_else(|| whole(folder.join("lmem_total_bytes"), "i915"))
            .or_else(|| whole(device.join("lmem_total_bytes"), "i915"));
        let plausible = found.filter(|(bytes, _)| PLAUSIBLE.contains(bytes));
        alike.extend(plausible.map(|(bytes, source)| (bus.to_owned(), Size { bytes, source })));
    }
    smallest(card, alike)
}

/// What `nvidia-smi` says: lines of bus, 0xDEVICEVENDOR and MiB.
fn nvidia(card: &Card, told: &str) -> Option<Size> {
    let [vendor, device] = card.ids;
    let of = |line: &str| {
        let [bus, ids, mib] = line.split(',').map(str::trim).collect::<Vec<_>>()[..] else { return None };
        let ours = number(ids) == Some(u64::from(device) << 16 | u64::from(vendor));
        let bytes = number(mib)?.checked_mul(1 << 20).filter(|bytes| ours && PLAUSIBLE.contains(bytes))?;
        // It writes the domain in 8 digits, others in 4.
        let bus = if bus.len() > 12 { bus.get(bus.len() - 12..).unwrap_or(bus) } else { bus };
        Some((bus.to_owned(), Size { bytes, source: "nvidia-smi".into() }))
    };
    smallest(card, told.lines().filter_map(of).collect())
}

/// The key under which Windows keeps what it knows of display adapters.
const DISPLAYS: &str = r"HKLM\SYSTEM\CurrentControlSet\Control\Class\{4d36e968-e325-11ce-bfc1-08002be10318}";

/// What the registry says, as `reg query` prints it: keys, each with its values behind it.
fn registry(card: &Card, told: &str) -> Option<Size> {
    let ids = format!("ven_{:04x}&dev_{:04x}", card.ids[0], card.ids[1]);
    let mut alike = Vec::new();
    let (mut ours, mut bytes) = (false, None);
    for line in told.lines().chain(["HKEY"]) {
        if line.starts_with("HKEY") {
            let size = bytes.take().filter(|bytes| ours && PLAUSIBLE.contains(bytes));
            alike.extend(size.map(|bytes| (String::new(), Size { bytes, source: "the registry".into() })));
            ours = false;
        }
        let [name, _, value] = line.split_whitespace().collect::<Vec<_>>()[..] else { continue };
        match name {
            "MatchingDeviceId" => ours = value.to_ascii_lowercase().contains(&ids),
            "HardwareInformation.qwMemorySize" => bytes = number(value),
            _ => {}
        }
    }
    smallest(card, alike)
}

/// The memory of the whole system, or of the container that this process may use.
fn system_memory(system: &System) -> Option<u64> {
    let powershell =
        ["-NoProfile", "-NonInteractive", "-Command", "(Get-CimInstance Win32_ComputerSystem).TotalPhysicalMemory"];
    let all = match system.os {
        "linux" => {
            let text = read(system.root.join("proc/meminfo"))?;
            let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
            number(line.trim().strip_suffix("kB")?)?.checked_mul(1 << 10)
        }
        "macos" => number(&(system.ask)("sysctl", &["-n", "hw.memsize"])?),
        "windows" => number(&(system.ask)("powershell", &powershell)?),
        _ => None,
    }?;
    let limit = system.root.join("sys/fs/cgroup/memory.max");
    let contained = limit.is_regular_file().then(|| number(&read(limit)?)).flatten().unwrap_or(u64::MAX);
    Some(all.min(contained)).filter(|bytes| PLAUSIBLE.contains(bytes))
}

/// How long a program may take to answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// What a program prints; each is asked once. Its exit code does not matter: what is printed is checked.
fn answer(program: &str, arguments: &[&str]) -> Option<String> {
    static TOLD: [OnceLock<Option<String>>; 4] = [const { OnceLock::new() }; 4];
    let place = ["nvidia-smi", "reg", "sysctl", "powershell"].iter().position(|p| *p == program)?;
    TOLD[place].get_or_init(|| printed(program, arguments)).clone()
}

fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let (send, receive) = mpsc::channel();
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stderr(Stdio::null());
    // A program that hangs with its driver is left to itself.
    std::thread::Builder::new().spawn(move || drop(send.send(command.output()))).ok()?;
    let output = receive.recv_timeout(PATIENCE).ok()?.ok()?;
    String::from_utf8(output.stdout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    fn card(ids: [u32; 2], bus: &str) -> Card {
        Card { ids, bus: bus.into(), shares: false }
    }

    /// A folder with these files.
    fn tree(name: &str, files: &[(&str, &str)]) -> PathBuf {
        let root = std::env::temp_dir().join(format!("selfreward-memory-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&root);
        for (file, text) in files {
            let path = root.join(file);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        std::fs::create_dir_all(&root).unwrap();
        root
    }

    fn of(card: &Card, os: &str, root: &Path, told: &[(&str, &str)]) -> (u64, String) {
        let ask = |program: &str, _: &[&str]| {
            told.iter().find(|(name, _)| *name == program).map(|(_, text)| (*text).to_owned())
        };
        let Size { bytes, source } = size(card, &System { os, root, ask: &ask });
        (bytes, source)
    }

    #[test]
    fn drivers_of_linux_tell_it_in_files() {
        let root = tree(
            "drm",
            &[
                ("sys/class/drm/card0/device/vendor", "0x1002\n"),
                ("sys/class/drm/card0/device/device", "0x744c\n"),
                ("sys/class/drm/card0/device/uevent", "DRIVER=amdgpu\nPCI_SLOT_NAME=0000:03:00.0\n"),
                ("sys/class/drm/card0/device/mem_info_vram_total", "25753026560\n"),
                // An output of the first card, which is none.
                ("sys/class/drm/card0-DP-1/device/vendor", "0x1002\n"),
                ("sys/class/drm/card1/device/vendor", "0x1002\n"),
                ("sys/class/drm/card1/device/device", "0x744c\n"),
                ("sys/class/drm/card1/device/uevent", "PCI_SLOT_NAME=0000:0A:00.0\n"),
                ("sys/class/drm/card1/device/mem_info_vram_total", "21458059264\n"),
                ("sys/class/drm/card2/device/vendor", "0x8086\n"),
                ("sys/class/drm/card2/device/device", "0xe20b\n"),
                ("sys/class/drm/card2/device/tile0/physical_vram_size_bytes", "12616466432\n"),
                ("sys/class/drm/card3/device/vendor", "0x8086\n"),
                ("sys/class/drm/card3/device/device", "0x56a0\n"),
                ("sys/class/drm/card3/lmem_total_bytes", "0x3fa000000\n"),
                ("sys/class/drm/card4/device/vendor", "0x1002\n"),
                ("sys/class/drm/card4/device/device", "0x0001\n"),
                ("sys/class/drm/card4/device/mem_info_vram_total", "nonsense\n"),
                ("sys/class/drm/card5/device/vendor", "0x1002\n"),
                ("sys/class/drm/card5/device/device", "0x0002\n"),
                ("sys/class/drm/card5/device/mem_info_vram_total", "18446744073709551615\n"),
                ("sys/class/drm/card6/device/vendor", "0x8086\n"),
                ("sys/class/drm/card6/device/device", "0x0bd5\n"),
                ("sys/class/drm/card6/device/tile0/memory/physical_vram_size_bytes", "68719476736\n"),
                ("sys/class/drm/card6/device/tile1/memory/physical_vram_size_bytes", "68719476736\n"),
            ],
        );
        let amd = [0x1002, 0x744c];
        for (card, bytes, source) in [
            (card(amd, "0000:03:00.0"), 25_753_026_560, "amdgpu"),
            (card(amd, "0000:0a:00.0"), 21_458_059_264, "amdgpu"),
            // Either may be meant, so what both have.
            (card(amd, ""), 21_458_059_264, "amdgpu"),
            (card(amd, "0000:77:00.0"), 21_458_059_264, "amdgpu"),
            (card([0x8086, 0xe20b], ""), 12_616_466_432, "xe"),
            (card([0x8086, 0x0bd5], ""), 128 * GIB, "xe"),
            (card([0x8086, 0x56a0], ""), 0x3_fa00_0000, "i915"),
            (card([0x1002, 0x0001], ""), 8 * GIB, NOBODY),
            (card([0x1002, 0x0002], ""), 8 * GIB, NOBODY),
            (card([0x1002, 0xffff], ""), 8 * GIB, NOBODY),
        ] {
            assert_eq!(of(&card, "linux", &root, &[]), (bytes, source.to_owned()), "{card:?}");
            assert_eq!(of(&card, "freebsd", &root, &[]).0, 8 * GIB, "{card:?}");
        }
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn nvidia_smi_and_the_registry_are_read() {
        let root = tree("none", &[]);
        let smi = "00000000:01:00.0, 0x268410DE, 24564\n00000000:02:00.0, 0x268410DE, 49140\nnothing\n\
                   00000000:03:00.0, 0x220410DE, [N/A]\n00000000:04:00.0, 0x2B8510DE, 99999999999999999999\n";
        for (ids, bus, mib) in [
            ([NVIDIA, 0x2684], "0000:01:00.0", 24564),
            ([NVIDIA, 0x2684], "0000:02:00.0", 49140),
            ([NVIDIA, 0x2684], "", 24564),
            ([NVIDIA, 0x2204], "0000:03:00.0", 8192),
            ([NVIDIA, 0x2b85], "0000:04:00.0", 8192),
            ([0x1002, 0x2684], "", 8192),
        ] {
            assert_eq!(of(&card(ids, bus), "linux", &root, &[("nvidia-smi", smi)]).0, mib << 20, "{ids:x?} {bus}");
        }
        let registry = "\r\nHKEY_LOCAL_MACHINE\\SYSTEM\\0000\r\n    DriverDesc    REG_SZ    Some Card\r\n    \
                        MatchingDeviceId    REG_SZ    PCI\\VEN_1002&DEV_744C&REV_C8\r\n    \
                        HardwareInformation.qwMemorySize    REG_QWORD    0x5ff000000\r\n\r\n\
                        HKEY_LOCAL_MACHINE\\SYSTEM\\0001\r\n    \
                        HardwareInformation.qwMemorySize    REG_QWORD    0x40000000\r\n    \
                        MatchingDeviceId    REG_SZ    pci\\ven_8086&dev_a780\r\n";
        let amd = card([0x1002, 0x744c], "");
        let told = [("reg", registry)];
        assert_eq!(of(&amd, "windows", &root, &told), (0x5_ff00_0000, "the registry".into()));
        assert_eq!(of(&card([0x8086, 0xa780], ""), "windows", &root, &told).0, 1 << 30);
        assert_eq!(of(&amd, "windows", &root, &[("reg", "ERROR: access is denied")]).0, 8 * GIB);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_gpu_without_memory_of_its_own_has_half_of_the_system_s() {
        let ids = [0x1002, 0x1586];
        let shares = Card { shares: true, ..card(ids, "") };
        let vram = "sys/class/drm/card0/device/mem_info_vram_total";
        let mine = [("sys/class/drm/card0/device/vendor", "0x1002"), ("sys/class/drm/card0/device/device", "0x1586")];
        let memory = ("proc/meminfo", "MemTotal:       33554432 kB\nMemFree:  1 kB\n");
        for (name, more, bytes, source) in [
            ("half", vec![(vram, "536870912"), memory], 16 * GIB, "half of the system's"),
            ("carved", vec![(vram, "103079215104"), memory], 96 * GIB, "amdgpu"),
            ("contained", vec![memory, ("sys/fs/cgroup/memory.max", "8589934592\n")], 4 * GIB, "half of the system's"),
            ("free", vec![memory, ("sys/fs/cgroup/memory.max", "max\n")], 16 * GIB, "half of the system's"),
            ("broken", vec![("proc/meminfo", "MemTotal: much")], 8 * GIB, NOBODY),
        ] {
            let root = tree(name, &[&mine[..], &more].concat());
            assert_eq!(of(&shares, "linux", &root, &[]), (bytes, source.to_owned()), "{name}");
            std::fs::remove_dir_all(root).unwrap();
        }
        let root = tree("empty", &[]);
        assert_eq!(of(&shares, "macos", &root, &[("sysctl", "25769803776\n")]).0, 12 * GIB);
        assert_eq!(of(&shares, "windows", &root, &[("powershell", "17179869184\r\n")]).0, 8 * GIB);
        assert_eq!(of(&shares, "linux", &root, &[]).0, 8 * GIB);
        std::fs::remove_dir_all(root).unwrap();
    }

    #[test]
    fn a_program_that_is_not_there_or_hangs_says_nothing() {
        assert_eq!(printed("selfreward-no-such-program", &[]), None);
    }
}
