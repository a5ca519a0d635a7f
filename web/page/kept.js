// The journal of the page's files, in the browser's own storage (OPFS). There are two files: one is in use, into the other
// the journal is written anew when much in it is out of date. Each begins with a number; the greater one counts. It is
// written last, so that a journal which was being written when the tab closed does not count.

const HEAD = 8;
const WASTE = 8 << 20;

export class InUse extends Error {}

export class Journal {
  #files;
  #now = 0;
  #end = HEAD;

  // Opens the files, or gives null where the browser keeps none. A file that is open in another tab cannot be opened.
  static async open() {
    let folder;
    try {
      const root = await navigator.storage.getDirectory();
      folder = await root.getDirectoryHandle("selfreward", { create: true });
    } catch {
      return null;
    }
    const journal = new Journal();
    journal.#files = [];
    for (const name of ["a.journal", "b.journal"]) {
      const file = await folder.getFileHandle(name, { create: true });
      if (!file.createSyncAccessHandle) return null;
      journal.#files.push(await handle(file));
    }
    journal.#now = journal.#number(1) > journal.#number(0) ? 1 : 0;
    return journal;
  }

  #number(which) {
    const head = new Uint8Array(HEAD);
    if (this.#files[which].read(head, { at: 0 }) < HEAD) return 0;
    return Number(new DataView(head.buffer).getBigUint64(0, true));
  }

  // Every record that is kept.
  records() {
    const file = this.#files[this.#now];
    const bytes = new Uint8Array(Math.max(file.getSize() - HEAD, 0));
    file.read(bytes, { at: HEAD });
    return bytes;
  }

  // Goes on behind the records that are whole; `anew` gives shorter ones that say the same.
  resume(whole, anew) {
    if (this.#number(this.#now) === 0) this.#name(this.#now, 1);
    const file = this.#files[this.#now];
    this.#end = HEAD + whole;
    file.truncate(this.#end);
    const records = anew();
    if (whole - records.length < WASTE) return;
    const other = 1 - this.#now;
    const number = this.#number(this.#now) + 1;
    try {
      this.#files[other].truncate(0);
      write(this.#files[other], new Uint8Array(HEAD), 0);
      write(this.#files[other], records, HEAD);
      this.#files[other].flush();
      this.#name(other, number);
    } catch {
      // Where there is no room for both, the longer one goes on.
      this.#files[other].truncate(0);
      return;
    }
    file.truncate(0);
    this.#now = other;
    this.#end = HEAD + records.length;
  }

  #name(which, number) {
    const head = new Uint8Array(HEAD);
    new DataView(head.buffer).setBigUint64(0, BigInt(number), true);
    write(this.#files[which], head, 0);
    this.#files[which].flush();
  }

  append(record) {
    const file = this.#files[this.#now];
    try {
      write(file, record, this.#end);
    } catch (error) {
      file.truncate(this.#end);
      throw error;
    }
    this.#end += record.length;
  }

  flush() {
    this.#files[this.#now].flush();
  }
}

// A file, for this page alone. A tab that is being closed may have it for a moment longer.
async function handle(file) {
  for (let tries = 0; ; tries += 1) {
    try {
      return await file.createSyncAccessHandle();
    } catch (error) {
      if (error.name !== "NoModificationAllowedError" && error.name !== "InvalidStateError") throw error;
      if (tries === 10) throw new InUse("the journal is open in another tab");
      await new Promise((done) => setTimeout(done, 200));
    }
  }
}

function write(file, bytes, at) {
  if (file.write(bytes, { at }) < bytes.length) {
    throw new DOMException("not all could be written", "QuotaExceededError");
  }
}
