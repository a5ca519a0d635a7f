# Finds what a build or a run needs and is not there, and installs it, saying so; silent when nothing is missing.
# Sourced by the scripts beside it. Asks nothing; needs root or sudo only when something has to be installed.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)

say() { printf '== %s\n' "$*"; }
fail() { printf 'error: %s\n' "$*" >&2; exit 1; }

export PATH="$PATH:$HOME/.cargo/bin:/usr/sbin:/sbin"

# Whether someone is there whom sudo may ask for a password.
[ -t 0 ] && attended=1 || attended=

as_root() {
  if [ "$(id -u)" = 0 ]; then "$@"
  elif ! command -v sudo >/dev/null; then fail "this needs root: $*  (run it as root, or install sudo)"
  elif [ -n "$attended" ]; then sudo "$@"
  else sudo -n "$@"
  fi
}

# apt-get without questions; its words are shown only when it fails.
apt_get() {
  local log; log=$(mktemp)
  if ! as_root env DEBIAN_FRONTEND=noninteractive apt-get -q -y "$@" </dev/null >"$log" 2>&1; then
    tail -n 15 "$log" >&2; rm -f "$log"
    fail "apt-get $* failed (see above)"
  fi
  rm -f "$log"
}

# apt_install PACKAGES…: with fresh package lists, once a script.
apt_install() {
  if [ -z "${apt_updated:-}" ]; then apt_get update; apt_updated=1; fi
  apt_get install --no-install-recommends "$@"
}

has_apt() { command -v apt-get >/dev/null && command -v dpkg >/dev/null; }

need_rust() {
  command -v cargo >/dev/null || fail "Rust is missing. Install it from https://rustup.rs (version $(rust_wanted) or newer), then run this again."
  local have; have=$(rustc --version | cut -d' ' -f2 | cut -d- -f1)
  [ "$(printf '%s\n' "$(rust_wanted)" "$have" | sort -V | head -n 1)" = "$(rust_wanted)" ] ||
    fail "Rust $have is too old; $(rust_wanted) is needed. Run: rustup update stable"
}

rust_wanted() { sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n 1; }

# Sets run to the program that SELFREWARD names, else to one that is built here.
need_program() {
  if [ -n "${SELFREWARD:-}" ]; then run=$SELFREWARD; return; fi
  setup
  say "Building selfreward (release; the first time takes some minutes)"
  cargo build --release --locked -q -p selfreward-cli
  run=${CARGO_TARGET_DIR:-target}/release/selfreward
}

need_linker() {
  command -v cc >/dev/null && return
  has_apt || fail "a C compiler is missing (Rust links with it). Install gcc or clang."
  say "Installing gcc, which Rust links with"
  apt_install gcc libc6-dev
}

need_loader() {
  ldconfig -p 2>/dev/null | grep -q 'libvulkan\.so\.1' && return
  has_apt || fail "the Vulkan loader (libvulkan.so.1) is missing. Install vulkan-loader (Fedora, openSUSE: libvulkan1; Arch: vulkan-icd-loader)."
  say "Installing the Vulkan loader (libvulkan1)"
  apt_install libvulkan1
}

# icd_files PATTERN: the Vulkan driver descriptions whose file name matches.
icd_files() {
  local dir
  for dir in /usr/share/vulkan/icd.d /usr/local/share/vulkan/icd.d /etc/vulkan/icd.d "${XDG_DATA_HOME:-$HOME/.local/share}/vulkan/icd.d"; do
    if [ -d "$dir" ]; then find -L "$dir" -name '*.json' | grep -E "/[^/]*($1)[^/]*$" || true; fi
  done
}

# Whether a GPU and a driver for it are there, without starting Vulkan: a device node and a driver description that fits it.
has_gpu() {
  local node vendor icd
  { [ -e /dev/nvidiactl ] || [ -e /dev/nvidia0 ]; } && [ -n "$(icd_files nvidia)" ] && return 0
  [ -e /dev/dxg ] && [ -n "$(icd_files dzn)" ] && return 0
  for node in /dev/dri/renderD*; do
    [ -e "$node" ] || continue
    vendor=$(cat "/sys/class/drm/${node##*/}/device/vendor" 2>/dev/null || true)
    case "$vendor" in
      0x1002) icd='radeon|amd' ;;
      0x8086) icd=intel ;;
      0x10de) icd='nvidia|nouveau' ;;
      0x1af4) continue ;; # a virtual machine's display, seldom able to compute
      *) icd='broadcom|freedreno|panfrost|asahi|powervr|mali' ;;
    esac
    [ -n "$(icd_files "$icd")" ] && return 0
  done
  return 1
}

mesa_major() { local v=${1#*:}; printf '%s' "${v%%.*}"; }

# Whether Mesa's software driver (lavapipe) is there and new enough.
has_software_driver() {
  [ -n "$(icd_files lvp)" ] || return 1
  has_apt || return 0
  local v; v=$(dpkg-query -W -f '${Version}' mesa-vulkan-drivers 2>/dev/null) || return 0
  [ "$(mesa_major "$v")" -ge 24 ]
}

# debian_archive CODENAME: the address that apt takes this Debian from, and "yes" where it is trusted without a signature.
debian_archive() {
  apt-get indextargets --format '$(REPO_URI) $(TRUSTED)' 'Created-By: Packages' "Release: $1" 'Component: main' | head -n 1
}

# Adds Debian's backports to apt, from the same archive that this machine takes Debian itself from.
add_backports() {
  local codename=$1 suite=$1-backports line uri trusted
  if apt-get indextargets --format '$(RELEASE)' 'Created-By: Packages' | grep -qx "$suite"; then return; fi
  line=$(debian_archive "$codename")
  uri=${line%% *} trusted=
  [ -n "$uri" ] || fail "found no apt source for Debian $codename; add $suite to your apt sources by hand and run this again"
  grep -qsE "^deb .*\[[^]]*trusted=yes[^]]*\] *$uri" /etc/apt/sources.list /etc/apt/sources.list.d/*.list && trusted='Trusted: yes'
  say "Adding $suite to apt (/etc/apt/sources.list.d/$suite.sources), from the archive this machine already uses"
  {
    printf 'Types: deb\nURIs: %s\nSuites: %s\nComponents: main\n' "$uri" "$suite"
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] && printf 'Signed-By: /usr/share/keyrings/debian-archive-keyring.gpg\n'
    [ -n "$trusted" ] && printf '%s\n' "$trusted"
    true
  } | as_root tee "/etc/apt/sources.list.d/$suite.sources" >/dev/null
  apt_updated=
}

need_adapter() {
  [ -n "${VK_DRIVER_FILES:-}${VK_ICD_FILENAMES:-}" ] && return
  has_gpu || has_software_driver && return
  has_apt || fail "found no GPU with a Vulkan driver. Install your GPU's driver, or Mesa's software driver, version 24 or newer (Fedora: mesa-vulkan-drivers; Arch: vulkan-swrast; openSUSE: libvulkan_lvp)."
  say "Found no GPU with a Vulkan driver: installing Mesa's drivers, among them its software driver (some 200 MB with LLVM)"
  apt_get update; apt_updated=1
  local candidate; candidate=$(LC_ALL=C apt-cache policy mesa-vulkan-drivers | sed -n 's/^ *Candidate: //p')
  if [ -n "$candidate" ] && [ "$candidate" != "(none)" ] && [ "$(mesa_major "$candidate")" -ge 24 ]; then
    apt_install mesa-vulkan-drivers
  elif [ "$(. /etc/os-release && printf '%s' "$ID:${VERSION_CODENAME:-}")" = debian:bookworm ]; then
    add_backports bookworm
    apt_install -t bookworm-backports mesa-vulkan-drivers
  else
    fail "this system's own Mesa (${candidate:-none}) is too old: version 24 or newer is needed. Install a newer one (Ubuntu 22.04: upgrade to 24.04), or your GPU's own driver."
  fi
  has_gpu || has_software_driver || fail "Mesa is installed, but no Vulkan driver is to be found under /usr/share/vulkan/icd.d"
}

# MPI, and libclang, through which its bindings are made; for the feature mpi alone.
need_mpi() {
  command -v mpicc >/dev/null && command -v mpirun >/dev/null && command -v clang >/dev/null && return
  has_apt || fail "MPI or clang is missing. Install Open MPI with its headers, and clang with libclang."
  say "Installing Open MPI and clang (libopenmpi-dev, openmpi-bin, clang, libclang-dev; some 500 MB)"
  apt_install libopenmpi-dev openmpi-bin clang libclang-dev
}

setup() {
  need_rust
  if [ "$(uname -s)" = Linux ]; then
    need_linker
    need_loader
    need_adapter
  else
    command -v cc >/dev/null || fail "a C compiler is missing (on a Mac: xcode-select --install)"
  fi
}
