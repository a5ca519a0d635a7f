# What is built for a browser: a compiler for it, and the web page. Sourced behind setup.sh.
# shellcheck shell=bash

target=${CARGO_TARGET_DIR:-$root/target}
mkdir -p "$target"

# A compiler for wasm32-unknown-unknown: rustup's where it has that target or can fetch it, else Debian's, which is unpacked and
# not installed. cargo_wasm then runs cargo with it, and says how the standard library is come by.
cargo_wasm=()
find_wasm() {
  local target_name=wasm32-unknown-unknown
  has_std() { local libs; libs=$(rustc --print target-libdir --target $target_name 2>/dev/null) && [ -n "$(find "$libs" -name 'libstd-*' 2>/dev/null)" ]; }
  if ! has_std && command -v rustup >/dev/null; then
    echo "Fetching rustup's target $target_name"
    rustup -q target add $target_name || echo "rustup cannot fetch it"
  fi
  if has_std; then cargo_wasm=(cargo); return; fi
  local dir=$target/rust-web lld
  if [ ! -x "$dir/usr/bin/rustc" ]; then
    if ! has_apt || [ "$(uname -m)-$(. /etc/os-release && printf '%s' "$ID")" != x86_64-debian ]; then
      echo "no compiler for $target_name: run rustup target add $target_name"
      return 1
    fi
    echo "Fetching Debian's Rust for web browsers (some 150 MB, into $dir; not installed)"
    rm -rf "$dir" "$dir.part"
    mkdir -p "$dir.part/deb"
    unpack_rust_web "$dir.part" || { apt_get update; unpack_rust_web "$dir.part"; } || return 1
    mv "$dir.part" "$dir"
  fi
  lld=$(find "$(rustc --print sysroot)/lib/rustlib" -name rust-lld | head -n 1)
  [ -n "$lld" ] || { echo "no rust-lld beside rustc, which links for $target_name"; return 1; }
  # Its std for this target is built from its sources, which takes a nightly's option. The library path is for that rustc alone.
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s/usr/lib/x86_64-linux-gnu exec %s/usr/bin/rustc "$@"\n' "$dir" "$dir" >"$dir/rustc"
  printf '#!/bin/sh\nLD_LIBRARY_PATH=%s/usr/lib/x86_64-linux-gnu exec %s/usr/bin/cargo "$@" -Zbuild-std=std,panic_abort\n' "$dir" "$dir" >"$dir/cargo"
  chmod +x "$dir/rustc" "$dir/cargo"
  cargo_wasm=(env "RUSTC=$dir/rustc" RUSTC_BOOTSTRAP=1 "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$lld" "$dir/cargo")
}

# unpack_rust_web DIR: the packages of Debian's newest Rust and of what it is linked with. Their names tell versions.
unpack_rust_web() {
  local dir=$1 deb wanted="rustc-web cargo-web rust-web-src"
  # What it is linked with and Debian alone has; each asks for the next.
  for _ in 1 2 3; do
    # shellcheck disable=SC2086
    wanted=$(printf '%s\n' $wanted $(apt-cache depends --important $wanted 2>/dev/null | sed -n 's/^ *Depends: //p' |
      grep -E '^lib(std-rust|llvm|git2|http-parser|mbed|ssh2)') | sort -u)
  done
  # shellcheck disable=SC2086
  (cd "$dir/deb" && rm -f ./*.deb && apt-get -q -o APT::Sandbox::User="$(id -un)" download $wanted >/dev/null 2>&1) || return 1
  for deb in "$dir"/deb/*.deb; do dpkg-deb -x "$deb" "$dir" || return 1; done
  rm -rf "$dir/deb"
}

# build_web PROFILE FOLDER: the page with its program, the program's glue by the crate of wasm-bindgen's own version.
web_tools=$target/wasm/debug/selfreward-web-tools
build_web() {
  local profile=$1 folder=$2 name=$1 module
  [ "$profile" = dev ] && name=debug
  find_wasm || return 1
  say "Building the page's program ($profile)"
  (cd "$root/web" && CARGO_TARGET_DIR=$target/wasm "${cargo_wasm[@]}" build -q --locked --lib --target wasm32-unknown-unknown --profile "$profile") || return 1
  (cd "$root/web" && cargo build -q --locked -p selfreward-web-tools --target-dir "$target/wasm") || return 1
  module=$target/wasm/wasm32-unknown-unknown/$name/selfreward_web.wasm
  rm -rf "$folder.part"
  mkdir -p "$folder.part"
  cp "$root"/web/page/* "$folder.part" || return 1
  "$web_tools" glue "$module" "$folder.part" || return 1
  if [ "$profile" = release ] && command -v wasm-opt >/dev/null; then
    # One that does not know what the module uses leaves it as it is.
    wasm-opt -Oz --all-features "$folder.part/selfreward_web_bg.wasm" -o "$folder.part/small.wasm" 2>/dev/null &&
      mv "$folder.part/small.wasm" "$folder.part/selfreward_web_bg.wasm" || rm -f "$folder.part/small.wasm"
  fi
  rm -rf "$folder"
  mv "$folder.part" "$folder"
  echo "$folder: $(cat "$folder"/* | wc -c) bytes, $(cat "$folder"/* | gzip -9 | wc -c) by gzip"
}
