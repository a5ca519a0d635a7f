# Runs named stages one after the other, each with its time; sourced by the test scripts.
# shellcheck shell=bash

# shellcheck source=wasm.sh
. "$root/scripts/lib/wasm.sh"
log=$target/test.log
mkdir -p "$target"
: >"$log"
stage_times=()
# The one of the demo's tests that every change runs.
# shellcheck disable=SC2034
demo_test=seed_0_improves
# What is published; a package is made from the folder as it is.
# shellcheck disable=SC2034
packages=(--workspace --exclude selfreward-testing --locked --allow-dirty)

# stage NAME COMMAND…: runs it, shows and keeps what it prints; the first failure ends the script.
stage() {
  local name=$1 start=$SECONDS; shift
  say "$name: $*"
  if ! "$@" 2>&1 </dev/null | tee -a "$log"; then
    stage_times+=("$name $((SECONDS - start)) FAILED")
    summary
    exit 1
  fi
  stage_times+=("$name $((SECONDS - start))")
}

# The time of each stage, and the sum of all test results in one line.
summary() {
  local line
  say "Seconds by stage"
  for line in "${stage_times[@]}"; do printf '%s\n' "$line" | awk '{ printf "   %-12s %5d %s\n", $1, $2, $3 }'; done
  awk '/^test result:/ { for (i = 2; i <= NF; i++) { if ($i ~ /^passed/) p += $(i-1); if ($i ~ /^failed/) f += $(i-1); if ($i ~ /^ignored/) s += $(i-1) } }
       END { printf "%d passed, %d failed, %d skipped\n", p, f, s }' "$log"
}

# All tests. They leave shaders and reports for the stages below.
all_tests() {
  rm -rf "$target/shaders" "$target/report"
  SHADERS_OUT=$target/shaders REPORT_OUT=$target/report cargo test --workspace --locked
}

# The page's program, which is the library without the hub, and the tests of what makes the page of it.
page_for_web() {
  build_web dev "$target/page/site" || return 1
  (cd "$root/web" && cargo test -q --locked -p selfreward-web-tools --target-dir "$target/wasm")
}

# Into the current folder, with the package lists renewed where the ones at hand do not do.
download_chromium_common() {
  rm -f chromium-common_*.deb
  apt-get -q -o APT::Sandbox::User="$(id -un)" download chromium-common >/dev/null 2>&1 && return
  apt_get update
  apt-get -q -o APT::Sandbox::User="$(id -un)" download chromium-common
}

# second_vulkan [--all]: the kernels once more under WebGPU's default limits, which wgpu then enforces, and on SwiftShader, a
# Vulkan implementation with other limits and other rounding than Mesa's: every case there, and but for --all some of each
# kernel where it is told to do without its features. Debian ships it as one file inside chromium-common; that file is
# taken out of the package, nothing is installed.
second_vulkan() {
  local all=${1:-} dir=$target/swiftshader lib=$target/swiftshader/libvk_swiftshader.so
  echo "selfreward check${all:+ $all} --limits webgpu, on this machine's own adapter"
  # shellcheck disable=SC2086
  "$target/debug/selfreward" check $all --limits webgpu || return 1
  if [ ! -e "$lib" ]; then
    if [ "$(uname -s)" != Linux ] || ! has_apt || [ "$(. /etc/os-release && printf '%s' "$ID")" != debian ]; then
      echo "skipped: SwiftShader is taken from Debian's chromium-common package, and this is no Debian"
      return 0
    fi
    echo "Fetching SwiftShader (inside chromium-common, some 30 MB, into $dir; not installed)"
    mkdir -p "$dir"
    if ! (cd "$dir" && download_chromium_common && dpkg-deb --fsys-tarfile chromium-common_*.deb |
      tar -x --strip-components=4 ./usr/lib/chromium/libvk_swiftshader.so); then
      rm -f "$lib"
      return 1
    fi
    rm -f "$dir"/chromium-common_*.deb
  fi
  printf '{"file_format_version": "1.0.0", "ICD": {"library_path": "%s", "api_version": "1.1.0"}}\n' "$lib" >"$dir/icd.json"
  local options
  for options in --all "--no-features $all"; do
    echo "selfreward check $options, on SwiftShader"
    # shellcheck disable=SC2086
    VK_DRIVER_FILES=$dir/icd.json VK_ICD_FILENAMES=$dir/icd.json "$target/debug/selfreward" check $options || return 1
  done
}

# The kernels for matrix units, run by the first software driver that has cooperative matrices: Mesa 26, of Debian's next release.
# Its packages and those they need are unpacked into a folder of their own, with their own C library; nothing is installed.
matrix_units() {
  local dir=$target/mesa archive deb kernel
  if [ ! -e "$dir/root/usr/share/vulkan/icd.d/lvp_icd.json" ]; then
    if ! has_apt || [ "$(uname -m)-$(. /etc/os-release && printf '%s' "$ID")" != x86_64-debian ]; then
      echo "skipped: Mesa 26 is taken from Debian's packages for x86_64, and this is no such Debian"
      return 0
    fi
    archive=$(debian_archive "$(. /etc/os-release && printf '%s' "$VERSION_CODENAME")")
    archive=${archive%% *}
    [ -n "$archive" ] || { echo "found no apt source for this Debian"; return 1; }
    echo "Fetching Mesa 26 (some 80 MB, into $dir; not installed)"
    rm -rf "$dir"; mkdir -p "$dir/lists/partial" "$dir/archives/partial" "$dir/root"
    printf 'deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s main\n' "$archive" trixie "$archive" trixie-backports >"$dir/sources"
    : >"$dir/status"
    unpacked_apt() {
      apt-get -q -y -o Dir::State::Lists="$dir/lists" -o Dir::State::status="$dir/status" -o Dir::Cache="$dir" \
        -o Dir::Cache::Archives="$dir/archives" -o Dir::Etc::SourceList="$dir/sources" -o Dir::Etc::SourceParts=/dev/null \
        -o APT::Sandbox::User="$(id -un)" "$@" >"$dir/apt.log" 2>&1 || { tail -n 5 "$dir/apt.log"; return 1; }
    }
    unpacked_apt update || return 1
    unpacked_apt install --no-install-recommends --download-only -t trixie-backports mesa-vulkan-drivers libvulkan1 || return 1
    for deb in "$dir"/archives/*.deb; do dpkg-deb -x "$deb" "$dir/root" || return 1; done
    rm -rf "$dir/archives" "$dir/lists"
  fi
  for kernel in peak_matrix matmul_matrix; do
    with_mesa_26 "$target/debug/selfreward" check --all --quick --kernel "$kernel" --matrix-units || return 1
  done
}

# with_mesa_26 PROGRAM…: runs it with the driver, the Vulkan loader and the C library of that folder.
with_mesa_26() {
  local lib=$target/mesa/root/usr/lib/x86_64-linux-gnu
  VK_DRIVER_FILES=$target/mesa/root/usr/share/vulkan/icd.d/lvp_icd.json XDG_CACHE_HOME=$target/mesa/cache \
    "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$@"
}

# Every shader's translations, which the tests have left, through the validators of others: SPIR-V through spirv-val, HLSL
# through glslang's front end, the WGSL itself through Dawn (the WebGPU of Chromium, whose compiler is stricter than naga).
shader_translations() {
  local dir=$target/shaders
  if has_apt && ! { command -v spirv-val && command -v glslangValidator; } >/dev/null; then
    say "Installing spirv-tools and glslang-tools"
    apt_install spirv-tools glslang-tools
  fi
  validate "SPIR-V by spirv-val" "$dir" spv spirv-val --target-env vulkan1.1 || return 1
  validate "HLSL by glslang" "$dir" hlsl hlsl_by_glslang || return 1
  echo "skipped: HLSL by dxc and MSL by Apple's compiler, neither of which Debian ships"
  in_dawn "$dir"
}

# validate WHAT DIR EXTENSION COMMAND…: runs the command on each such file and says how many passed; none is a failure.
validate() {
  local what=$1 dir=$2 extension=$3 file passed=0 failed=0; shift 3
  if ! command -v "$1" >/dev/null; then echo "skipped: $what, for $1 is missing"; return 0; fi
  for file in "$dir"/*."$extension"; do
    if "$@" "$file" >"$dir/validator.log" 2>&1; then passed=$((passed + 1)); else
      failed=$((failed + 1))
      echo "${file##*/}:"; head -n 5 "$dir/validator.log"
    fi
  done
  echo "$what: $passed passed, $failed refused"
  [ "$failed" = 0 ] && [ "$passed" -gt 0 ]
}

# glslang wants to be told the entry point, which the file's name holds: KERNEL.VARIANT.ENTRY.NUMBER.hlsl. Its HLSL front
# end does not know the zero array (T[N])0, which dxc does, so those initialisers are taken out first.
hlsl_by_glslang() {
  command -v glslangValidator >/dev/null || return 1
  local entry; entry=$(basename "$1" | cut -d. -f3)
  sed -E 's/ = \([a-z0-9]+\[[0-9]+\]\)0;/;/' "$1" >"$1.plain"
  glslangValidator -D -V -S comp -e "$entry" -o /dev/null "$1.plain"
}

# Every shader compiled, and the GPU variants' kernel cases run and compared, by another WebGPU than wgpu.
in_dawn() {
  local dir=$target/dawn
  if ! command -v npm >/dev/null; then echo "skipped: Dawn, for node and npm are missing"; return 0; fi
  mkdir -p "$dir"
  cp "$root"/scripts/dawn/* "$dir" || return 1
  if [ ! -d "$dir/node_modules/webgpu" ]; then
    echo "Fetching Dawn (the npm package webgpu, some 130 MB, into $dir)"
    (cd "$dir" && npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts) || return 1
  fi
  node "$dir/compile.mjs" "$1" || return 1
  rm -rf "$target/cases"
  "$target/debug/selfreward" check --variant tile --export "$target/cases" || return 1
  node "$dir/run.mjs" "$target/cases"
}

# report_in_browser [install]: the report's test pages, which the tests have left, with hostile texts in them, in headless
# Chromium at the width of a phone, in the light and in the dark: something is drawn, nothing runs, the page does not scroll
# sideways. Measured by a script that is put into copies of the pages without their policy, which would not let it run.
report_in_browser() {
  local dir=$target/report file name scheme browser problems=0
  if [ "${1:-}" = install ] && ! find_browser >/dev/null && has_apt && [ "$(. /etc/os-release && printf '%s' "$ID")" = debian ]; then
    say "Installing chromium"
    (apt_install chromium) || true
  fi
  browser=$(find_browser) || { echo "skipped: the report in a browser, for Chromium is missing (on Debian: apt-get install chromium)"; return 0; }
  # Those of an earlier call.
  rm -f "$dir"/*.measured.html "$dir"/*.dom
  for file in "$dir"/*.html; do
    name=$(basename "$file" .html)
    {
      grep -v 'http-equiv="Content-Security-Policy"' "$file"
      cat "$root/scripts/lib/measure.html"
    } >"$dir/$name.measured.html"
    browse "$browser" --dump-dom "file://$dir/$name.measured.html" >"$dir/$name.dom" || return 1
    if ! grep -q 'data-measured="360 0 [1-9][0-9]* 0"' "$dir/$name.dom"; then
      echo "$name: width, pixels beyond it, height, empty plots: $(grep -o 'data-measured="[^"]*"' "$dir/$name.dom")"
      problems=1
    fi
    if grep -q 'data-hurt' "$dir/$name.dom"; then echo "$name: a text of the run was run as a script"; problems=1; fi
    for scheme in 1 0; do
      browse "$browser" --window-size=360,800 --blink-settings=preferredColorScheme=$scheme "--screenshot=$dir/$name.$scheme.png" "file://$file" || return 1
      # A blank page of this size has some 2 kB.
      if [ "$(wc -c <"$dir/$name.$scheme.png")" -lt 8000 ]; then echo "$name: the picture is blank"; problems=1; fi
    done
    if cmp -s "$dir/$name.0.png" "$dir/$name.1.png"; then echo "$name: light and dark look alike"; problems=1; fi
  done
  [ "$problems" = 0 ] && echo "the report in a browser: $(find "$dir" -name '*.dom' | wc -l) pages fit a phone, in the light and in the dark"
}

# page_in_browser [whole]: the page that page_for_web has built, in headless Chromium, on Chromium's own software GPU: its loop
# must find what the command line finds, and lose nothing when it is stopped, killed or hindered. `whole` plays the whole demo instead.
page_in_browser() {
  local dir=$target/page browser icd=$target/swiftshader/icd.json
  if ! command -v npm >/dev/null; then echo "skipped: the page in a browser, for node and npm are missing"; return 0; fi
  if ! find_browser >/dev/null && has_apt && [ "$(. /etc/os-release && printf '%s' "$ID")" = debian ]; then
    say "Installing chromium"
    (apt_install chromium) || true
  fi
  browser=$(find_browser) || { echo "skipped: the page in a browser, for Chromium is missing (on Debian: apt-get install chromium)"; return 0; }
  if [ ! -d "$dir/node_modules/playwright-core" ]; then
    (cd "$dir" && npm install --silent --no-audit --no-fund --no-package-lock --ignore-scripts playwright-core@1) || return 1
  fi
  [ -e "$icd" ] || icd=/usr/lib/chromium/vk_swiftshader_icd.json
  if [ -e "$icd" ]; then export VK_DRIVER_FILES=$icd VK_ICD_FILENAMES=$icd; fi
  cp "$root/web/test/page.mjs" "$dir" && cd "$dir" || return 1
  WEB_TOOLS=$web_tools node page.mjs "$dir/site" "$browser" "$target/debug/selfreward" "$dir/pictures" \
    "$root/models/SmolLM2-135M-Instruct.Q4_1.gguf" "${1:-}"
}

find_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }

# browse BROWSER OPTION…: headless, without a word, and without calls to anywhere.
browse() {
  local browser=$1 profile status=0; shift
  profile=$(mktemp -d)
  timeout 60 "$browser" --headless --no-sandbox --disable-gpu --disable-background-networking --disable-component-update \
    --disable-sync --no-first-run --hide-scrollbars --user-data-dir="$profile" "$@" 2>/dev/null || status=$?
  rm -rf "$profile"
  return $status
}
