//! What SQLite calls: a file system over that of the system, which asks the [`Platter`] before it does something.
#![allow(unsafe_code, reason = "SQLite calls a file system by pointers, and has one called so")]

use std::cell::Cell;
use std::ffi::{CStr, CString, c_char, c_int, c_void};
use std::path::Path;
use std::ptr;
use std::slice;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_io_methods, sqlite3_vfs};

use crate::platter::{Answer, Platter};

/// What is behind `pAppData`. It lives as long as the process.
struct System {
    real: *mut sqlite3_vfs,
    platter: &'static Mutex<Platter>,
}

/// A file of ours; behind it, in the same piece of memory, lies that of the system.
#[repr(C, align(8))]
struct Handle {
    base: sqlite3_file,
    /// Set for as long as it is open.
    platter: &'static Mutex<Platter>,
    file: Option<usize>,
    /// Its first sync syncs the folder, too: SQLite's own file system does that for each log and journal that it opens to
    /// write, be it there already or not (`isNewJrnl` in its `unixOpen`).
    syncs_folder: Cell<bool>,
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // No memory maps: what is read has to come by here.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Makes SQLite know a file system of this name.
pub(crate) fn register(name: &str) -> Result<&'static Mutex<Platter>, rusqlite::Error> {
    let failed = |code| Err(rusqlite::Error::SqliteFailure(ffi::Error::new(code), None));
    let name = CString::new(name)?;
    // SAFETY: Without a name it asks for the default one; SQLite initializes itself.
    let real = unsafe { ffi::sqlite3_vfs_find(ptr::null()) };
    if real.is_null() {
        return failed(ffi::SQLITE_ERROR);
    }
    let platter: &'static Mutex<Platter> = Box::leak(Box::default());
    let system = Box::leak(Box::new(System { real, platter }));
    // SAFETY: SQLite keeps what is registered, and it is a plain structure. What is not ours below does not look at which
    // file system it was called by.
    let mut ours = unsafe { ptr::read(real) };
    ours.iVersion = 2;
    ours.szOsFile += size_of::<Handle>() as c_int;
    ours.pNext = ptr::null_mut();
    ours.zName = name.into_raw();
    ours.pAppData = ptr::from_mut(system).cast();
    ours.xOpen = Some(open);
    ours.xDelete = Some(delete);
    // SAFETY: It lives as long as the process, and so do its name and what it refers to.
    match unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(ours)), 0) } {
        ffi::SQLITE_OK => Ok(platter),
        code => failed(code),
    }
}

fn locked(platter: &Mutex<Platter>) -> MutexGuard<'_, Platter> {
    platter.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What belongs to a file system of ours.
///
/// # Safety
/// It is one that [`register`] has made.
unsafe fn system(vfs: *mut sqlite3_vfs) -> &'static System {
    // SAFETY: It lives as long as the process.
    let system = unsafe { (*vfs).pAppData };
    // SAFETY: `register` has put it there, and it lives as long.
    unsafe { &*system.cast::<System>() }
}

/// A file of ours.
///
/// # Safety
/// It is one that [`open`] has opened, and nobody else is using it.
unsafe fn ours<'a>(file: *mut sqlite3_file) -> &'a Handle {
    // SAFETY: `open` has written a handle there, and SQLite uses a file from one thread at a time.
    unsafe { &*file.cast::<Handle>() }
}

/// The file of the system behind one of ours.
///
/// # Safety
/// It has the size that [`register`] has told.
unsafe fn real(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: SQLite has made room for both, one behind the other, and a handle's size is a multiple of 8.
    unsafe { file.cast::<Handle>().add(1).cast() }
}

/// Has the system do it.
macro_rules! real {
    ($file:ident . $method:ident ( $($argument:expr),* ) or $absent:expr) => {{
        // SAFETY: It is a file of ours that is open, and so is the one behind it.
        let real = unsafe { real($file) };
        // SAFETY: The system's own file system has set its methods when it opened it, for the whole process.
        let methods = unsafe { &*(*real).pMethods };
        match methods.$method {
            // SAFETY: The arguments are those of SQLite's own call.
            Some(method) => unsafe { method(real, $($argument),*) },
            None => $absent,
        }
    }};
}

/// Whose file it is.
macro_rules! handle {
    ($file:ident) => {
        // SAFETY: SQLite calls methods only of files that are open.
        unsafe { ours($file) }
    };
}

unsafe extern "C" fn open(
    vfs: *mut sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    flags_out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite calls it with what was registered.
    let system = unsafe { system(vfs) };
    // SAFETY: A file that is not open has no methods; SQLite has made the room for it.
    unsafe { (*file).pMethods = ptr::null() };
    if locked(system.platter).is_off() {
        return ffi::SQLITE_CANTOPEN;
    }
    // SAFETY: The system's own is as it was when it was registered.
    let Some(open) = (unsafe { (*system.real).xOpen }) else { return ffi::SQLITE_CANTOPEN };
    // SAFETY: As for `real!`: it is asked for nothing else than we are.
    let behind = unsafe { real(file) };
    // SAFETY: It is called with its own file system, and room of the size that it has asked for.
    let opened = unsafe { open(system.real, name, behind, flags, flags_out) };
    if opened != ffi::SQLITE_OK {
        return opened;
    }
    // SAFETY: SQLite gives a path that ends, or none.
    let path = unsafe { path(name) };
    let is_log = flags & (ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL) != 0;
    let platter = system.platter;
    let known = locked(platter).opened(path);
    let syncs_folder = Cell::new(is_log && flags & ffi::SQLITE_OPEN_CREATE != 0);
    let handle =
        Handle { base: sqlite3_file { pMethods: &raw const METHODS }, platter, file: known, syncs_folder };
    // SAFETY: SQLite has made room for it, which is aligned to 8 bytes as the handle is.
    unsafe { ptr::write(file.cast::<Handle>(), handle) };
    ffi::SQLITE_OK
}

/// # Safety
/// It is null, or ends with a zero.
unsafe fn path<'a>(name: *const c_char) -> Option<&'a Path> {
    if name.is_null() {
        return None;
    }
    // SAFETY: As is said above.
    let name = unsafe { CStr::from_ptr(name) };
    name.to_str().ok().map(Path::new)
}

unsafe extern "C" fn delete(vfs: *mut sqlite3_vfs, name: *const c_char, syncs_folder: c_int) -> c_int {
    // SAFETY: SQLite calls it with what was registered.
    let system = unsafe { system(vfs) };
    // SAFETY: SQLite gives a path that ends.
    let Some(path) = (unsafe { path(name) }) else { return ffi::SQLITE_IOERR_DELETE };
    if locked(system.platter).deleted(path) != Answer::Go {
        return ffi::SQLITE_IOERR_DELETE;
    }
    // SAFETY: The system's own is as it was when it was registered.
    let Some(delete) = (unsafe { (*system.real).xDelete }) else { return ffi::SQLITE_IOERR_DELETE };
    // SAFETY: It is called with its own file system. What is synced costs time, and the platter knows of it.
    let deleted = unsafe { delete(system.real, name, 0) };
    if syncs_folder != 0 {
        locked(system.platter).folder_synced();
    }
    deleted
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    locked(handle!(file).platter).closed();
    real!(file.xClose() or ffi::SQLITE_OK)
}

unsafe extern "C" fn read(file: *mut sqlite3_file, to: *mut c_void, count: c_int, offset: i64) -> c_int {
    match locked(handle!(file).platter).reads() {
        Answer::Go => real!(file.xRead(to, count, offset) or ffi::SQLITE_IOERR_READ),
        _ => ffi::SQLITE_IOERR_READ,
    }
}

unsafe extern "C" fn write(file: *mut sqlite3_file, from: *const c_void, count: c_int, offset: i64) -> c_int {
    let handle = handle!(file);
    let (Ok(length), Ok(place)) = (usize::try_from(count), usize::try_from(offset)) else {
        return ffi::SQLITE_IOERR_WRITE;
    };
    // SAFETY: SQLite gives so many bytes.
    let bytes = unsafe { slice::from_raw_parts(from.cast::<u8>(), length) };
    // Not held meanwhile: nobody else writes to a place that is being written to.
    let answer = locked(handle.platter).writes(handle.file, place, bytes);
    match answer {
        Answer::Go => real!(file.xWrite(from, count, offset) or ffi::SQLITE_IOERR_WRITE),
        Answer::Full(fits) => {
            let fits = c_int::try_from(fits).unwrap_or_default();
            let _ = real!(file.xWrite(from, fits, offset) or ffi::SQLITE_IOERR_WRITE);
            ffi::SQLITE_FULL
        }
        Answer::Fails => ffi::SQLITE_IOERR_WRITE,
    }
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, length: i64) -> c_int {
    let handle = handle!(file);
    let answer = locked(handle.platter).truncates(handle.file, usize::try_from(length).unwrap_or_default());
    match answer {
        Answer::Go => real!(file.xTruncate(length) or ffi::SQLITE_IOERR_TRUNCATE),
        _ => ffi::SQLITE_IOERR_TRUNCATE,
    }
}

unsafe extern "C" fn sync(file: *mut sqlite3_file, _flags: c_int) -> c_int {
    let handle = handle!(file);
    // The real disk need not know: what counts is what the platter says is synced.
    match locked(handle.platter).syncs(handle.file, handle.syncs_folder.take()) {
        Answer::Go => ffi::SQLITE_OK,
        _ => ffi::SQLITE_IOERR_FSYNC,
    }
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut i64) -> c_int {
    if locked(handle!(file).platter).is_off() {
        return ffi::SQLITE_IOERR_FSTAT;
    }
    real!(file.xFileSize(size) or ffi::SQLITE_IOERR_FSTAT)
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    if locked(handle!(file).platter).is_off() {
        return ffi::SQLITE_IOERR_LOCK;
    }
    real!(file.xLock(level) or ffi::SQLITE_OK)
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    real!(file.xUnlock(level) or ffi::SQLITE_OK)
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, is_locked: *mut c_int) -> c_int {
    real!(file.xCheckReservedLock(is_locked) or ffi::SQLITE_OK)
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, what: c_int, argument: *mut c_void) -> c_int {
    real!(file.xFileControl(what, argument) or ffi::SQLITE_NOTFOUND)
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    real!(file.xSectorSize() or 512)
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    real!(file.xDeviceCharacteristics() or 0)
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    page: c_int,
    size: c_int,
    extends: c_int,
    place: *mut *mut c_void,
) -> c_int {
    if locked(handle!(file).platter).is_off() {
        return ffi::SQLITE_IOERR_SHMMAP;
    }
    real!(file.xShmMap(page, size, extends, place) or ffi::SQLITE_IOERR_SHMMAP)
}

unsafe extern "C" fn shm_lock(file: *mut sqlite3_file, offset: c_int, count: c_int, flags: c_int) -> c_int {
    real!(file.xShmLock(offset, count, flags) or ffi::SQLITE_IOERR_SHMLOCK)
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    real!(file.xShmBarrier() or ());
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, deletes: c_int) -> c_int {
    real!(file.xShmUnmap(deletes) or ffi::SQLITE_OK)
}
