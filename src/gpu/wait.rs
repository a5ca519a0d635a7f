//! Waiting for the device: the one place that knows how. A program blocks its thread. In a browser nothing may block;
//! there the call stack is set aside until a promise settles (WebAssembly's JSPI), and the calls above look the same.

#[cfg(not(target_family = "wasm"))]
pub(super) use here::*;
#[cfg(target_family = "wasm")]
pub(super) use in_browser::*;

#[cfg(not(target_family = "wasm"))]
mod here {
    use std::sync::mpsc::Receiver;

    pub(in super::super) use pollster::block_on;

    /// Waits for what was submitted, where polling the device does not.
    pub(in super::super) fn submitted(_: &wgpu::Queue) {}

    /// What was sent, or will be.
    pub(in super::super) fn received<T>(from: &Receiver<T>) -> Option<T> {
        from.recv().ok()
    }
}

#[cfg(target_family = "wasm")]
mod in_browser {
    use js_sys::futures::future_to_promise;
    use js_sys::{Function, Promise, Reflect, global};
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::mpsc::Receiver;
    use wasm_bindgen::closure::Closure;
    use wasm_bindgen::{JsCast, JsValue};

    /// Sets the stack aside until the promise has settled. How it settles tells nothing here.
    fn settle(promise: &Promise) {
        #[expect(deprecated, reason = "marked as experimental; the version is pinned for it")]
        let _ = js_sys::futures::jspi_block_on_promise(promise);
    }

    pub(in super::super) fn block_on<T: 'static>(future: impl Future<Output = T> + 'static) -> T {
        let result = Rc::new(Cell::new(None));
        let here = Rc::clone(&result);
        settle(&future_to_promise(async move {
            here.set(Some(future.await));
            Ok(JsValue::UNDEFINED)
        }));
        #[expect(clippy::expect_used, reason = "the promise settles behind the line that sets it")]
        result.take().expect("a settled promise has left its result")
    }

    /// Waits for what was submitted: in a browser polling the device does nothing.
    pub(in super::super) fn submitted(queue: &wgpu::Queue) {
        let _nudges = Nudges::begin(queue);
        settle(&Promise::new(&mut |done, _| {
            queue.on_submitted_work_done(move || drop(done.call0(&JsValue::UNDEFINED)));
        }));
    }

    /// Empty submits every few milliseconds, for Firefox: by itself it looks ten times a second whether work is done,
    /// and once more at each submit (bug 1870699 of Mozilla's list).
    struct Nudges {
        id: JsValue,
        _again: Closure<dyn FnMut()>,
    }

    impl Nudges {
        /// `None` in other browsers.
        fn begin(queue: &wgpu::Queue) -> Option<Nudges> {
            let named = Reflect::get(&Reflect::get(&global(), &"navigator".into()).ok()?, &"userAgent".into()).ok()?;
            if !named.as_string()?.contains("Firefox/") {
                return None;
            }
            let queue = queue.clone();
            let again = Closure::new(move || drop(queue.submit([])));
            let timer = function("setInterval")?;
            let id = timer.call2(&JsValue::UNDEFINED, again.as_ref().unchecked_ref(), &MILLISECONDS.into()).ok()?;
            Some(Nudges { id, _again: again })
        }
    }

    impl Drop for Nudges {
        fn drop(&mut self) {
            if let Some(timer) = function("clearInterval") {
                let _ = timer.call1(&JsValue::UNDEFINED, &self.id);
            }
        }
    }

    /// Between two empty submits.
    const MILLISECONDS: f64 = 2.0;

    /// A function of the page or the worker.
    fn function(name: &str) -> Option<Function> {
        Reflect::get(&global(), &name.into()).ok()?.dyn_into().ok()
    }

    /// What was sent. A buffer is mapped before the work behind it is told to be done, so it has been.
    pub(in super::super) fn received<T>(from: &Receiver<T>) -> Option<T> {
        from.try_recv().ok()
    }
}
