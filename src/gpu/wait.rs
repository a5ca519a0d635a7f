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
    use js_sys::Promise;
    use js_sys::futures::future_to_promise;
    use std::cell::Cell;
    use std::rc::Rc;
    use std::sync::mpsc::Receiver;
    use wasm_bindgen::JsValue;

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
        settle(&Promise::new(&mut |done, _| {
            queue.on_submitted_work_done(move || drop(done.call0(&JsValue::UNDEFINED)));
        }));
    }

    /// What was sent. A buffer is mapped before the work behind it is told to be done, so it has been.
    pub(in super::super) fn received<T>(from: &Receiver<T>) -> Option<T> {
        from.try_recv().ok()
    }
}
