//! Folders and files in memory, with the rules and the errors of a disk.

use super::journal::{Change, first};
use std::collections::{BTreeMap, HashMap};
use std::io::{Error, ErrorKind, Result};
use std::ops::Range;
use std::path::{Component, Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Keeps the records of a tree's changes where they outlive the program.
#[cfg_attr(not(target_family = "wasm"), expect(unreachable_pub, reason = "a page's program has its own"))]
pub trait Journal {
    /// Adds a record behind the others, whole or not at all.
    ///
    /// # Errors
    /// There is no room for it, or it cannot be written.
    fn append(&mut self, record: &[u8]) -> Result<()>;
    /// Waits until all records are safe.
    ///
    /// # Errors
    /// They cannot be.
    fn flush(&mut self) -> Result<()>;
}

/// A file that is not in the tree's memory, such as one on a visitor's disk. It can be read, not changed.
#[cfg_attr(not(target_family = "wasm"), expect(unreachable_pub, reason = "a page's program has its own"))]
pub trait Given: std::fmt::Debug + Send + Sync {
    /// Its length in bytes.
    fn length(&self) -> u64;
    /// Reads bytes from a place on, as many as `to` has room for.
    ///
    /// # Errors
    /// It has not so many, or cannot be read any more.
    fn read(&self, at: u64, to: &mut [u8]) -> Result<()>;
}

/// What is in a file. It lives as long as its name or somebody who has it open.
#[derive(Debug)]
pub(super) struct Content {
    id: u64,
    bytes: Mutex<Vec<u8>>,
    given: Option<Box<dyn Given>>,
}

impl Content {
    /// The bytes, for a short while.
    pub(super) fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        // Whoever panicked here left bytes, which have no shape that could be broken.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The length in bytes.
    pub(super) fn length(&self) -> u64 {
        self.given.as_ref().map_or_else(|| self.bytes().len() as u64, |given| given.length())
    }

    /// Some of the bytes.
    pub(super) fn part(&self, range: Range<usize>) -> Result<Vec<u8>> {
        let Some(given) = &self.given else {
            return self.bytes().get(range).map(<[u8]>::to_vec).ok_or_else(|| ErrorKind::UnexpectedEof.into());
        };
        let mut part = vec![0; range.len()];
        given.read(range.start as u64, &mut part)?;
        Ok(part)
    }
}

#[derive(Clone, Debug)]
enum Node {
    Folder,
    File(Arc<Content>),
}

/// Folders and files by their paths from the root on; paths in order have a folder right before what is in it.
#[derive(Default)]
pub(super) struct Tree {
    nodes: BTreeMap<PathBuf, Node>,
    next: u64,
    journal: Option<Box<dyn Journal>>,
}

/// A path from the root on, without `.` and `..`; the working directory is the root.
pub(super) fn absolute(path: &Path) -> PathBuf {
    let mut all = PathBuf::from("/");
    for part in path.components() {
        match part {
            Component::Normal(name) => all.push(name),
            // The root is above itself.
            Component::ParentDir => drop(all.pop()),
            Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
        }
    }
    all
}

impl Tree {
    /// Tells every change from now on to `journal`.
    pub(super) fn keep_by(&mut self, journal: Box<dyn Journal>) {
        self.journal = Some(journal);
    }

    /// Makes the changes that `records` tell, until one is torn; returns the bytes of those before it.
    pub(super) fn replay(&mut self, records: &[u8]) -> usize {
        let mut contents: HashMap<u64, Arc<Content>> = HashMap::new();
        let mut at = 0;
        while let Some((change, length)) = first(&records[at..]) {
            if let Change::File(path, id) = &change {
                let content = Arc::new(Content { id: *id, bytes: Mutex::default(), given: None });
                self.next = self.next.max(id + 1);
                contents.insert(*id, content.clone());
                self.nodes.insert(path.clone(), Node::File(content));
            } else if let Change::Write(id, ..) | Change::Length(id, _) = &change {
                contents.get(id).into_iter().for_each(|content| apply(content, &change));
            } else {
                self.rearrange(&change);
            }
            at += length;
        }
        at
    }

    /// The records from which an empty tree becomes this one.
    pub(super) fn records(&self) -> Vec<u8> {
        let mut all = Vec::new();
        for (path, node) in &self.nodes {
            match node {
                Node::Folder => all.extend(Change::Folder(path.clone()).record()),
                Node::File(content) if content.given.is_some() => {}
                Node::File(content) => {
                    all.extend(Change::File(path.clone(), content.id).record());
                    all.extend(Change::Write(content.id, 0, &content.bytes()).record());
                }
            }
        }
        all
    }

    fn tell(&mut self, change: &Change<'_>) -> Result<()> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.append(&change.record()))
    }

    /// Waits until all changes so far are safe.
    pub(super) fn flush(&mut self) -> Result<()> {
        self.journal.as_mut().map_or(Ok(()), |journal| journal.flush())
    }

    /// Makes a change of names.
    fn rearrange(&mut self, change: &Change<'_>) {
        match change {
            Change::Folder(path) => drop(self.nodes.insert(path.clone(), Node::Folder)),
            Change::Remove(path) => self.nodes.retain(|other, _| !other.starts_with(path)),
            Change::Rename(from, to) => {
                self.nodes.retain(|other, _| other == from || !other.starts_with(to));
                let moved: Vec<PathBuf> = self.nodes.keys().filter(|p| p.starts_with(from)).cloned().collect();
                for old in moved {
                    let Some(node) = self.nodes.remove(&old) else { continue };
                    let name = old.strip_prefix(from).ok().filter(|rest| !rest.as_os_str().is_empty());
                    self.nodes.insert(name.map_or_else(|| to.clone(), |rest| to.join(rest)), node);
                }
            }
            Change::File(..) | Change::Write(..) | Change::Length(..) => {}
        }
    }

    fn node(&self, path: &Path) -> Option<&Node> {
        if path == Path::new("/") { Some(&Node::Folder) } else { self.nodes.get(path) }
    }

    /// Whether there is something of this name, and whether it is a folder.
    pub(super) fn kind(&self, path: &Path) -> Option<bool> {
        self.node(&absolute(path)).map(|node| matches!(node, Node::Folder))
    }

    /// The content of a file that is there.
    pub(super) fn content(&self, path: &Path) -> Result<Arc<Content>> {
        match self.node(&absolute(path)) {
            None => Err(ErrorKind::NotFound.into()),
            Some(Node::Folder) => Err(ErrorKind::IsADirectory.into()),
            Some(Node::File(content)) => Ok(content.clone()),
        }
    }

    /// The content of a file, which is made if there is none.
    pub(super) fn content_or_new(&mut self, path: &Path) -> Result<Arc<Content>> {
        match self.content(path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {}
            found => return found,
        }
        let path = absolute(path);
        self.expect_folder(path.parent())?;
        let id = self.next;
        self.tell(&Change::File(path.clone(), id))?;
        self.next += 1;
        let content = Arc::new(Content { id, bytes: Mutex::default(), given: None });
        self.nodes.insert(path, Node::File(content.clone()));
        Ok(content)
    }

    /// Puts a given file into the root folder, in place of one of the same name. No journal is told of it.
    pub(super) fn give(&mut self, name: &str, given: Box<dyn Given>) {
        let content = Content { id: u64::MAX, bytes: Mutex::default(), given: Some(given) };
        self.nodes.insert(Path::new("/").join(name), Node::File(Arc::new(content)));
    }

    fn expect_folder(&self, path: Option<&Path>) -> Result<()> {
        match path.and_then(|path| self.node(path)) {
            None => Err(ErrorKind::NotFound.into()),
            Some(Node::File(_)) => Err(ErrorKind::NotADirectory.into()),
            Some(Node::Folder) => Ok(()),
        }
    }

    /// Writes bytes into a content from a place on; what was never written before that is zero.
    pub(super) fn write(&mut self, content: &Content, at: u64, bytes: &[u8]) -> Result<()> {
        self.alter(content, &Change::Write(content.id, at, bytes), at + bytes.len() as u64)
    }

    /// Gives a content another length; what is new is zero.
    pub(super) fn set_length(&mut self, content: &Content, length: u64) -> Result<()> {
        self.alter(content, &Change::Length(content.id, length), length)
    }

    fn alter(&mut self, content: &Content, change: &Change<'_>, end: u64) -> Result<()> {
        if content.given.is_some() {
            return Err(ErrorKind::ReadOnlyFilesystem.into());
        }
        // Records have lengths of 32 bits, and so have a browser's addresses.
        if end > (u32::MAX / 2).into() {
            return Err(Error::new(ErrorKind::FileTooLarge, "a file in the browser holds at most 2 GiB"));
        }
        self.tell(change)?;
        apply(content, change);
        Ok(())
    }

    /// Makes a folder and those above it.
    pub(super) fn create_dir_all(&mut self, path: &Path) -> Result<()> {
        let path = absolute(path);
        let mut above: Vec<&Path> = path.ancestors().collect();
        above.reverse();
        for folder in above {
            match self.node(folder) {
                Some(Node::Folder) => {}
                Some(Node::File(_)) if folder == path => return Err(ErrorKind::AlreadyExists.into()),
                Some(Node::File(_)) => return Err(ErrorKind::NotADirectory.into()),
                None => self.change_names(Change::Folder(folder.to_path_buf()))?,
            }
        }
        Ok(())
    }

    fn change_names(&mut self, change: Change<'_>) -> Result<()> {
        self.tell(&change)?;
        self.rearrange(&change);
        Ok(())
    }

    /// Puts a file or folder in place of another name.
    pub(super) fn rename(&mut self, from: &Path, to: &Path) -> Result<()> {
        let (from, to) = (absolute(from), absolute(to));
        let is_folder = match self.node(&from) {
            None => return Err(ErrorKind::NotFound.into()),
            Some(node) => matches!(node, Node::Folder),
        };
        self.expect_folder(to.parent())?;
        if from == to {
            return Ok(());
        }
        if to.starts_with(&from) {
            return Err(ErrorKind::InvalidInput.into());
        }
        match self.node(&to) {
            Some(Node::Folder) if !is_folder => return Err(ErrorKind::IsADirectory.into()),
            Some(Node::File(_)) if is_folder => return Err(ErrorKind::NotADirectory.into()),
            Some(Node::Folder) if !self.inside(&to).is_empty() => return Err(ErrorKind::DirectoryNotEmpty.into()),
            _ => {}
        }
        self.change_names(Change::Rename(from, to))
    }

    /// Removes a file.
    pub(super) fn remove_file(&mut self, path: &Path) -> Result<()> {
        self.content(path)?;
        self.change_names(Change::Remove(absolute(path)))
    }

    /// Removes a folder; one that is not empty only with `all` in it.
    pub(super) fn remove_dir(&mut self, path: &Path, all: bool) -> Result<()> {
        let path = absolute(path);
        self.expect_folder(Some(&path))?;
        if !all && !self.inside(&path).is_empty() {
            return Err(ErrorKind::DirectoryNotEmpty.into());
        }
        self.change_names(Change::Remove(path))
    }

    /// The paths of what is in a folder, but not of what is deeper.
    pub(super) fn read_dir(&self, path: &Path) -> Result<Vec<PathBuf>> {
        self.expect_folder(Some(&absolute(path)))?;
        let names = self.inside(&absolute(path)).into_iter();
        Ok(names.filter_map(|inside| Some(path.join(inside.file_name()?))).collect())
    }

    fn inside(&self, folder: &Path) -> Vec<&PathBuf> {
        self.nodes.keys().filter(|path| path.parent() == Some(folder)).collect()
    }

    /// Every file's path, in order.
    pub(super) fn files(&self) -> Vec<PathBuf> {
        let is_file = |(_, node): &(&PathBuf, &Node)| matches!(node, Node::File(_));
        self.nodes.iter().filter(is_file).map(|(path, _)| path.clone()).collect()
    }
}

/// Makes a change of a content.
fn apply(content: &Content, change: &Change<'_>) {
    let mut all = content.bytes();
    match change {
        Change::Write(_, at, bytes) => {
            let at = *at as usize;
            if all.len() < at + bytes.len() {
                all.resize(at + bytes.len(), 0);
            }
            all[at..at + bytes.len()].copy_from_slice(bytes);
        }
        Change::Length(_, length) => all.resize(*length as usize, 0),
        Change::Folder(_) | Change::File(..) | Change::Rename(..) | Change::Remove(_) => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Keeps records in memory, as long as there is room for them.
    struct Kept {
        records: Arc<Mutex<Vec<u8>>>,
        room: usize,
    }

    impl Journal for Kept {
        fn append(&mut self, record: &[u8]) -> Result<()> {
            let mut records = self.records.lock().unwrap();
            if records.len() + record.len() > self.room {
                return Err(ErrorKind::StorageFull.into());
            }
            records.extend(record);
            Ok(())
        }

        fn flush(&mut self) -> Result<()> {
            Ok(())
        }
    }

    fn kept(room: usize) -> (Tree, Arc<Mutex<Vec<u8>>>) {
        let (mut tree, records) = (Tree::default(), Arc::new(Mutex::default()));
        tree.keep_by(Box::new(Kept { records: Arc::clone(&records), room }));
        (tree, records)
    }

    /// Files and folders, written, renamed and removed, as a run does it.
    fn work(tree: &mut Tree) -> Result<()> {
        let path = |name: &str| PathBuf::from(name);
        tree.create_dir_all(&path("run/a"))?;
        let log = tree.content_or_new(&path("run/log"))?;
        tree.write(&log, 0, b"one\ntwo\nthr")?;
        tree.set_length(&log, 8)?;
        let model = tree.content_or_new(&path("run/.m.tmp"))?;
        tree.write(&model, 0, &[1, 2, 3])?;
        tree.rename(&path("run/.m.tmp"), &path("run/a/m"))?;
        tree.rename(&path("run/a"), &path("run/b"))?;
        tree.write(&model, 5, &[6])?;
        tree.write(&log, 8, b"three\n")?;
        tree.create_dir_all(&path("run/scratch/deep"))?;
        tree.content_or_new(&path("run/scratch/deep/x"))?;
        tree.remove_dir(&path("run/scratch"), true)?;
        tree.content_or_new(&path("run/gone"))?;
        tree.remove_file(&path("run/gone"))?;
        tree.flush()
    }

    fn shown(tree: &Tree) -> Vec<(PathBuf, Vec<u8>)> {
        let bytes = |path: PathBuf| (path.clone(), tree.content(&path).unwrap().bytes().clone());
        tree.files().into_iter().map(bytes).collect()
    }

    #[test]
    fn a_tree_comes_back_from_its_journal_and_from_its_records() {
        let (mut tree, journal) = kept(usize::MAX);
        work(&mut tree).unwrap();
        let expected =
            vec![("/run/b/m".into(), vec![1, 2, 3, 0, 0, 6]), ("/run/log".into(), b"one\ntwo\nthree\n".to_vec())];
        assert_eq!(shown(&tree), expected);
        let (journal, records) = (journal.lock().unwrap().clone(), tree.records());
        for bytes in [&journal, &records] {
            let mut again = Tree::default();
            assert_eq!(again.replay(bytes), bytes.len());
            assert_eq!(shown(&again), expected);
            assert_eq!(again.kind(Path::new("run/scratch")), None);
            // New contents do not take the numbers of old ones.
            let new = again.content_or_new(Path::new("/new")).unwrap();
            again.write(&new, 0, b"x").unwrap();
            assert_eq!(&shown(&again)[1..], &expected[..]);
        }
        assert!(records.len() < journal.len());
    }

    /// Wherever a journal was torn, the tree is one that there was.
    #[test]
    fn a_torn_journal_gives_an_earlier_tree() {
        let (mut tree, journal) = kept(usize::MAX);
        work(&mut tree).unwrap();
        let journal = journal.lock().unwrap().clone();
        let mut ends = vec![0];
        while let Some((_, length)) = first(&journal[ends[ends.len() - 1]..]) {
            ends.push(ends[ends.len() - 1] + length);
        }
        assert_eq!(ends.last(), Some(&journal.len()));
        for length in 0..journal.len() {
            let whole = Tree::default().replay(&journal[..length]);
            assert_eq!(Some(&whole), ends.iter().rfind(|end| **end <= length), "of {length} bytes");
        }
    }

    /// What cannot be kept is not done: tree and journal agree, however little room there is.
    #[test]
    fn a_full_journal_stops_the_work_and_keeps_what_was_done() {
        let all = {
            let (mut tree, journal) = kept(usize::MAX);
            work(&mut tree).unwrap();
            journal.lock().unwrap().len()
        };
        for room in 0..all {
            let (mut tree, journal) = kept(room);
            assert_eq!(work(&mut tree).unwrap_err().kind(), ErrorKind::StorageFull);
            let mut again = Tree::default();
            again.replay(&journal.lock().unwrap());
            assert_eq!(shown(&again), shown(&tree));
        }
    }

    /// Bytes that lie elsewhere.
    #[derive(Debug)]
    struct Elsewhere;

    impl Given for Elsewhere {
        fn length(&self) -> u64 {
            1 << 40
        }

        fn read(&self, at: u64, to: &mut [u8]) -> Result<()> {
            to.iter_mut().zip(at..).for_each(|(byte, at)| *byte = at as u8);
            Ok(())
        }
    }

    #[test]
    fn a_given_file_is_read_in_parts_and_not_kept() {
        let (mut tree, journal) = kept(usize::MAX);
        tree.give("model.gguf", Box::new(Elsewhere));
        let content = tree.content(Path::new("/model.gguf")).unwrap();
        assert_eq!((content.length(), content.part(254..258).unwrap()), (1 << 40, vec![254, 255, 0, 1]));
        assert_eq!(tree.write(&content, 0, b"x").unwrap_err().kind(), ErrorKind::ReadOnlyFilesystem);
        assert!(journal.lock().unwrap().is_empty() && tree.records().is_empty());
        let own = tree.content_or_new(Path::new("/own")).unwrap();
        tree.write(&own, 0, b"abc").unwrap();
        assert_eq!(own.part(1..3).unwrap(), b"bc");
        assert_eq!(own.part(1..4).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }

    /// The errors are those of a real disk.
    #[test]
    fn what_cannot_be_done_fails_as_on_a_disk() {
        type Act = (&'static str, fn(&mut Tree, &Path) -> Result<()>, fn(&Path) -> Result<()>);
        let acts: [Act; 9] = [
            ("read", |t, p| t.content(&p.join("none")).map(drop), |p| std::fs::read(p.join("none")).map(drop)),
            (
                "create",
                |t, p| t.content_or_new(&p.join("none/x")).map(drop),
                |p| std::fs::write(p.join("none/x"), "").map(drop),
            ),
            ("in a file", |t, p| t.create_dir_all(&p.join("f/x")), |p| std::fs::create_dir_all(p.join("f/x"))),
            (
                "rename none",
                |t, p| t.rename(&p.join("none"), &p.join("f")),
                |p| std::fs::rename(p.join("none"), p.join("f")),
            ),
            (
                "onto a full folder",
                |t, p| t.rename(&p.join("e"), &p.join("d")),
                |p| std::fs::rename(p.join("e"), p.join("d")),
            ),
            (
                "file onto folder",
                |t, p| t.rename(&p.join("f"), &p.join("e")),
                |p| std::fs::rename(p.join("f"), p.join("e")),
            ),
            (
                "folder onto file",
                |t, p| t.rename(&p.join("e"), &p.join("f")),
                |p| std::fs::rename(p.join("e"), p.join("f")),
            ),
            ("remove a full folder", |t, p| t.remove_dir(&p.join("d"), false), |p| std::fs::remove_dir(p.join("d"))),
            (
                "list none",
                |t, p| t.read_dir(&p.join("none")).map(drop),
                |p| std::fs::read_dir(p.join("none")).map(drop),
            ),
        ];
        let tmp = tempfile::tempdir().unwrap();
        let mut tree = Tree::default();
        for folder in ["d", "e"] {
            tree.create_dir_all(&tmp.path().join(folder)).unwrap();
            std::fs::create_dir(tmp.path().join(folder)).unwrap();
        }
        for file in ["f", "d/g"] {
            tree.content_or_new(&tmp.path().join(file)).unwrap();
            std::fs::write(tmp.path().join(file), "").unwrap();
        }
        for (what, here, there) in acts {
            let (ours, theirs) = (here(&mut tree, tmp.path()).unwrap_err(), there(tmp.path()).unwrap_err());
            assert_eq!(ours.kind(), theirs.kind(), "{what}");
        }
        let names: Vec<_> =
            tree.read_dir(tmp.path()).unwrap().iter().map(|p| p.file_name().unwrap().to_owned()).collect();
        assert_eq!(names, ["d", "e", "f"]);
        assert_eq!(absolute(Path::new("a/../b/./c")), Path::new("/b/c"));
    }
}
