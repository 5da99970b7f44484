// A stand-in for a GPU: the device "cuda" of a torch that was built without, in main memory.
//
// Results are those of the CPU's kernels. Order is that of a GPU at its worst: a copy that need not block is made when
// something waits for it and not before, and until then its target holds NaN. The host waits where CUDA's does, and
// `set_sync_debug_mode` forbids the same. Interfaces: c10/core/impl/DeviceGuardImplInterface.h, CUDAHooksInterface.h.
#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/EmptyTensor.h>
#include <ATen/NativeFunctions.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CachingDeviceAllocator.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <c10/core/impl/alloc_cpu.h>
#include <torch/csrc/distributed/c10d/Work.hpp>
#include <torch/csrc/distributed/c10d/reducer_timer.hpp>
#include <torch/library.h>

#include <array>
#include <atomic>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <mutex>
#include <set>

namespace {

using at::Tensor, c10::Device, c10::DeviceIndex, c10::IntArrayRef, c10::Stream, c10::StreamId, c10::SymIntArrayRef;

constexpr DeviceIndex MOST = 8;
const DeviceIndex DEVICES = std::getenv("STAND_IN_GPUS") ? std::atoi(std::getenv("STAND_IN_GPUS")) : 2;
thread_local DeviceIndex device = 0;
thread_local std::array<StreamId, MOST> current{};  // stream of each device
std::recursive_mutex lock;                          // autograd has a thread for each device
std::atomic<int> refusing{0};                       // 1 warns, 2 raises
std::atomic<int64_t> waits{0}, unrecorded{0}, allocated{0}, peak{0}, limit{0};

Device cuda(DeviceIndex index) { return Device(c10::kCUDA, index); }

void waiting(const std::string& what) {
  waits++;
  TORCH_CHECK(refusing != 2, "called a synchronizing CUDA operation: ", what);
  if (refusing == 1) TORCH_WARN("called a synchronizing CUDA operation: ", what);
}

// ---- streams and events ---------------------------------------------------------------------------------------------

struct Copy {
  int64_t number;
  bool to_host;
  std::function<void()> make;
};

struct Queue {
  int64_t given = 0;
  std::deque<Copy> copies;
};

struct Event {
  Queue* queue;
  int64_t number;
  bool asked;
};

std::map<std::pair<DeviceIndex, StreamId>, Queue> queues;  // references into a map stay good
StreamId streams = 0;

Queue& queue_of(DeviceIndex index, StreamId id) { return queues[{index, id}]; }
Queue& queue_of(const Stream& stream) { return queue_of(stream.device_index(), stream.id()); }

void finish(Queue& queue, int64_t number, bool on_host_too) {
  std::deque<Copy> copies, rest;
  copies.swap(queue.copies);
  for (auto& copy : copies) {
    if (copy.number <= number && (on_host_too || !copy.to_host)) copy.make();
    else rest.push_back(std::move(copy));
  }
  queue.copies.swap(rest);
}

// Before a stream goes on, what it was given before is done; the host knows nothing of it.
void begin(DeviceIndex index) {
  std::lock_guard held(lock);
  finish(queue_of(index, current[index]), INT64_MAX, false);
}

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return c10::kCUDA; }
  DeviceIndex deviceCount() const noexcept override { return DEVICES; }
  Device getDevice() const override { return cuda(device); }
  void setDevice(Device to) const override {
    TORCH_CHECK(to.index() < DEVICES, "CUDA error: invalid device ordinal");
    uncheckedSetDevice(to);
  }
  void uncheckedSetDevice(Device to) const noexcept override {
    if (to.index() >= 0) device = to.index();
  }
  Device exchangeDevice(Device to) const override {
    auto before = getDevice();
    setDevice(to);
    return before;
  }

  Stream getStream(Device of) const override {
    auto index = of.has_index() ? of.index() : device;
    return Stream(Stream::UNSAFE, cuda(index), current[index]);
  }
  Stream getDefaultStream(Device of) const override { return Stream(Stream::DEFAULT, of); }
  Stream getStreamFromGlobalPool(Device of, bool) const override { return getNewStream(of, 0); }
  Stream getNewStream(Device of, int) const override {
    std::lock_guard held(lock);
    return Stream(Stream::UNSAFE, of, ++streams);
  }
  Stream exchangeStream(Stream to) const override {
    auto before = getStream(to.device());
    current[to.device_index()] = to.id();
    return before;
  }
  bool queryStream(const Stream& stream) const override {
    std::lock_guard held(lock);
    return queue_of(stream).copies.empty();
  }
  void synchronizeStream(const Stream& stream) const override {
    waiting("cudaStreamSynchronize");
    std::lock_guard held(lock);
    finish(queue_of(stream), INT64_MAX, true);
  }
  void synchronizeDevice(const DeviceIndex index) const override {
    waiting("cudaDeviceSynchronize");
    std::lock_guard held(lock);
    for (auto& [of, queue] : queues)
      if (of.first == index) finish(queue, INT64_MAX, true);
  }

  void record(void** event, const Stream& stream, const DeviceIndex, const c10::EventFlag) const override {
    std::lock_guard held(lock);
    if (!*event) *event = new Event;
    auto& queue = queue_of(stream);
    *static_cast<Event*>(*event) = {&queue, queue.given, false};
  }
  void destroyEvent(void* event, const DeviceIndex) const noexcept override { delete static_cast<Event*>(event); }
  void block(void* event, const Stream&) const override { finish_until(event, false); }
  void synchronizeEvent(void* event) const override { finish_until(event, true); }
  bool queryEvent(void* event) const override {  // not yet, when asked first: the device is behind the host
    if (!event) return true;
    if (!std::exchange(static_cast<Event*>(event)->asked, true)) return false;
    finish_until(event, true);
    return true;
  }
  static void finish_until(void* event, bool on_host_too) {
    if (!event) return;
    std::lock_guard held(lock);
    auto& reached = *static_cast<Event*>(event);
    finish(*reached.queue, reached.number, on_host_too);
  }
};
C10_REGISTER_GUARD_IMPL(CUDA, Guard);

// ---- memory ---------------------------------------------------------------------------------------------------------

struct Block {
  void* data;
  int64_t size;
  StreamId stream;
  std::set<StreamId> used, recorded;
};

struct Memory final : c10::DeviceAllocator {
  c10::DataPtr allocate(size_t size) override {
    const int64_t bytes = size;
    TORCH_CHECK_WITH(OutOfMemoryError, !limit || allocated + bytes <= limit,
                     "CUDA out of memory. Tried to allocate ", bytes, " bytes. ", allocated.load(), " are in use.");
    allocated += bytes;
    peak = std::max(peak.load(), allocated.load());
    auto block = new Block{size ? c10::alloc_cpu(size) : nullptr, bytes, current[device], {}, {}};
    return {block->data, block, &release, cuda(device)};
  }
  static void release(void* context) {
    auto block = static_cast<Block*>(context);
    bool known = true;
    for (auto stream : block->used) known &= stream == block->stream || block->recorded.count(stream);
    unrecorded += !known;
    allocated -= block->size;
    if (block->data) c10::free_cpu(block->data);
    delete block;
  }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
  bool initialized() override { return true; }
  void emptyCache(c10::MempoolId_t) override {}
  void recordStream(const c10::DataPtr& data, Stream stream) override {
    std::lock_guard held(lock);
    static_cast<Block*>(data.get_context())->recorded.insert(stream.id());
  }
  c10::CachingDeviceAllocator::DeviceStats getDeviceStats(DeviceIndex) override { return {}; }
  void resetAccumulatedStats(DeviceIndex) override {}
  void resetPeakStats(DeviceIndex) override { peak = allocated.load(); }
} memory;

struct Pinned final : c10::Allocator {
  static inline std::map<const char*, size_t> blocks;
  c10::DataPtr allocate(size_t size) override {
    auto data = static_cast<char*>(c10::alloc_cpu(size + 1));
    std::lock_guard held(lock);
    blocks[data] = size + 1;
    return {data, data, &release, Device(c10::kCPU)};
  }
  static void release(void* data) {
    std::lock_guard held(lock);
    blocks.erase(static_cast<char*>(data));
    c10::free_cpu(data);
  }
  static bool holds(const void* data) {
    std::lock_guard held(lock);
    auto next = blocks.upper_bound(static_cast<const char*>(data));
    return next != blocks.begin() && (--next, data < next->first + next->second);
  }
  void copy_data(void* to, const void* from, size_t size) const override { std::memcpy(to, from, size); }
} pinned;

std::vector<at::Generator>& generators() {
  static std::vector<at::Generator> of_devices = [] {
    std::vector<at::Generator> made;
    for (int i = 0; i < DEVICES; i++) made.push_back(at::make_generator<at::CPUGeneratorImpl>());
    return made;
  }();
  return of_devices;
}

struct CUDAHooks final : at::CUDAHooksInterface {
  explicit CUDAHooks(at::CUDAHooksArgs) {}
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  DeviceIndex deviceCount() const override { return DEVICES; }
  DeviceIndex current_device() const override { return device; }
  DeviceIndex getCurrentDevice() const override { return device; }
  void setCurrentDevice(DeviceIndex to) const override { Guard().setDevice(cuda(to)); }
  DeviceIndex exchangeDevice(DeviceIndex to) const override { return Guard().exchangeDevice(cuda(to)).index(); }
  DeviceIndex maybeExchangeDevice(DeviceIndex to) const override { return exchangeDevice(to); }
  bool isPinnedPtr(const void* data) const override { return Pinned::holds(data); }
  c10::Allocator* getPinnedMemoryAllocator() const override { return &pinned; }
  c10::Allocator* getCUDADeviceAllocator() const override { return &memory; }
  const at::Generator& getDefaultGenerator(DeviceIndex index) const override {
    return generators()[index < 0 ? device : index];
  }
  at::Generator getNewGenerator(DeviceIndex) const override {  // the first ones are the devices' own
    static std::atomic<size_t> made{0};
    const auto number = made++;
    return number < generators().size() ? generators()[number] : at::make_generator<at::CPUGeneratorImpl>();
  }
};
using at::CUDAHooksRegistry, at::RegistererCUDAHooksRegistry;
REGISTER_CUDA_HOOKS(CUDAHooks);

// ---- operators ------------------------------------------------------------------------------------------------------

// Those whose result has a size that the host must know, or is the host's.
const std::set<std::string> READING = {"aten::nonzero", "aten::masked_select", "aten::equal", "aten::bincount",
                                       "aten::_unique2", "aten::unique_dim", "aten::unique_consecutive",
                                       "aten::repeat_interleave"};

struct Silent : c10::WarningHandler {
  void process(const c10::Warning&) override {}
} silent;

void note_use(const Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda() || !tensor.has_storage()) return;
  std::lock_guard held(lock);
  auto block = static_cast<Block*>(tensor.storage().data_ptr().get_context());
  if (block) block->used.insert(current[tensor.device().index()]);
}

// The same memory, as the CPU's kernels take it.
Tensor seen(const Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return tensor;
  const auto& storage = tensor.storage();
  c10::DataPtr data(storage.mutable_data(), Device(c10::kCPU));
  c10::Storage same({}, storage.nbytes(), std::move(data), c10::GetAllocator(c10::kCPU), /*resizable=*/true);
  auto host = at::detail::make_tensor<c10::TensorImpl>(
      std::move(same), c10::DispatchKeySet(c10::DispatchKey::CPU), tensor.dtype());
  auto impl = host.unsafeGetTensorImpl();
  impl->set_storage_offset(tensor.storage_offset());
  impl->set_sizes_and_strides(tensor.sizes(), tensor.strides());
  if (tensor.unsafeGetTensorImpl()->is_wrapped_number()) impl->set_wrapped_number(true);
  if (tensor.is_conj()) host._set_conj(true);
  if (tensor.is_neg()) host._set_neg(true);
  return host;
}

using Leaf = std::function<Tensor(const Tensor&)>;

void map_tensors(c10::IValue& value, const Leaf& change) {
  if (value.isTensor()) {
    value = change(value.toTensor());
  } else if (value.isTensorList()) {
    c10::List<Tensor> list;
    for (const Tensor& one : value.toTensorVector()) list.push_back(change(one));
    value = list;
  } else if (value.isOptionalTensorList()) {
    c10::List<std::optional<Tensor>> list;
    for (std::optional<Tensor> one : value.toOptionalTensorList())
      list.push_back(one ? std::optional(change(*one)) : std::nullopt);
    value = list;
  } else if (value.isList()) {
    c10::impl::GenericList list(value.toList().elementType());
    for (c10::IValue one : value.toListRef()) {
      map_tensors(one, change);
      list.push_back(one);
    }
    value = list;
  }
}

// Random numbers drawn within are the device's.
struct Drawing {
  at::Generator host = at::detail::getDefaultCPUGenerator();
  Tensor kept = host.get_state();
  Drawing() { host.set_state(generators()[device].get_state()); }
  ~Drawing() {
    generators()[device].set_state(host.get_state());
    host.set_state(kept);
  }
};

using Pairs = std::vector<std::pair<Tensor, Tensor>>;  // as given, as the CPU saw it

Tensor to_device(const Tensor& made, const Pairs& pairs) {
  if (!made.defined() || made.is_cuda()) return made;
  for (auto& [given, host] : pairs)
    if (made.is_same(host)) return given;
  for (auto& [given, host] : pairs)
    if (made.numel() && made.storage().data() == host.storage().data())
      return at::as_strided(given, made.sizes(), made.strides(), made.storage_offset());
  auto there = at::empty_strided(made.sizes(), made.strides(), made.options().device(cuda(device)));
  seen(there).copy_(made);
  return there;
}

// A collective under way, which gloo does in main memory in place of NCCL.
struct Together final : c10d::Work {
  c10::intrusive_ptr<c10d::Work> work;
  Pairs pairs;
  Together(c10::intrusive_ptr<c10d::Work> work, Pairs pairs) : work(std::move(work)), pairs(std::move(pairs)) {}
  bool isCompleted() override { return work->isCompleted(); }
  bool isSuccess() const override { return work->isSuccess(); }
  std::exception_ptr exception() const override { return work->exception(); }
  bool wait(std::chrono::milliseconds timeout) override { return work->wait(timeout); }
  void synchronize() override { work->wait(kNoTimeout); }
  c10::intrusive_ptr<c10::ivalue::Future> getFuture() override {
    auto back = [pairs = pairs](c10::ivalue::Future& done) {
      auto value = done.value();
      map_tensors(value, [&](const Tensor& made) { return to_device(made, pairs); });
      return value;
    };
    auto done = work->getFuture();
    return done->then(back, done->elementType());
  }
};

// DDP looks at the clock.
struct Clock final : c10d::Timer {
  explicit Clock(Device) {}
  std::optional<int64_t> measureDifference(Event start, Event end) override { return getTimeRef(end) - getTimeRef(start); }
};
using c10d::TimerRegistry, c10d::RegistererTimerRegistry;
C10_REGISTER_TYPED_CLASS(TimerRegistry, c10::kCUDA, Clock);

// Any operator, by the CPU's kernel on the same memory.
void compute(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  const auto& schema = op.schema();
  if (READING.count(schema.name())) waiting(schema.name());
  Pairs pairs;
  std::optional<Device> where;
  auto to_host = [&](const Tensor& given) {
    if (!given.defined() || !given.is_cuda()) return given;
    note_use(given);
    if (!where) where = given.device();
    pairs.emplace_back(given, seen(given));
    return pairs.back().second;
  };
  for (auto i = stack->size() - schema.arguments().size(); i < stack->size(); i++) {
    auto& value = (*stack)[i];
    map_tensors(value, to_host);
    if (value.isDevice()) where = value.toDevice(), value = Device(c10::kCPU);
  }
  c10::DeviceGuard guard(where && where->has_index() ? *where : cuda(device));
  begin(device);
  {
    std::optional<Drawing> drawing;
    if (op.hasTag(at::Tag::nondeterministic_seeded)) drawing.emplace();
    c10::WarningUtils::WarningHandlerGuard quiet(&silent);  // they may resize what they write to
    op.callBoxed(stack);
  }
  for (auto& [given, host] : pairs) {
    if (host.sizes() == given.sizes() && host.data_ptr() == given.data_ptr()) continue;
    given.resize_(host.sizes());
    given.unsafeGetTensorImpl()->set_sizes_and_strides(host.sizes(), host.strides());
    seen(given).copy_(host);
  }
  for (auto i = stack->size() - schema.returns().size(); i < stack->size(); i++) {
    auto& value = (*stack)[i];
    map_tensors(value, [&](const Tensor& made) { return to_device(made, pairs); });
    if (value.isCustomClass() && schema.name().rfind("c10d::", 0) == 0) {
      c10::intrusive_ptr<c10d::Work> work = c10::make_intrusive<Together>(value.toCustomClass<c10d::Work>(), pairs);
      value = work;
    }
  }
}

Tensor& copy_(Tensor& to, const Tensor& from, bool non_blocking) {
  const bool to_host = !to.is_cuda(), from_host = !from.is_cuda();
  const auto index = (to_host ? from : to).device().index();
  begin(index);
  note_use(to);
  note_use(from);
  auto target = seen(to), source = seen(from);
  if (!to_host && !from_host) {
    target.copy_(source);
    return to;
  }
  const bool direct = Pinned::holds((to_host ? to : from).data_ptr());
  if (!non_blocking || (to_host && !direct)) {
    waiting(to_host ? "a copy to the host" : "a copy to the device");
    target.copy_(source);
    return to;
  }
  if (to_host || !direct) source = source.clone();  // as it is now: by the order of the stream, or by staging
  if (target.is_floating_point()) target.fill_(NAN);
  else target.zero_();
  std::lock_guard held(lock);
  auto& queue = queue_of(index, current[index]);
  auto make = [target, source, to, from]() mutable { target.copy_(source); };  // `to` and `from` hold the memory
  queue.copies.push_back({++queue.given, to_host, make});
  return to;
}

at::Scalar local_scalar(const Tensor& tensor) {
  waiting("aten::_local_scalar_dense");
  begin(tensor.device().index());
  note_use(tensor);
  return at::_local_scalar_dense(seen(tensor));
}

void record_stream(Tensor& tensor, Stream stream) { memory.recordStream(tensor.storage().data_ptr(), stream); }

using Dtype = std::optional<at::ScalarType>;
using Layout = std::optional<at::Layout>;
constexpr c10::DispatchKeySet KEYS(c10::DispatchKey::CUDA);

Device chosen(std::optional<Device> on) { return on && on->has_index() ? *on : cuda(device); }

Tensor empty(IntArrayRef size, Dtype dtype, Layout, std::optional<Device> on, std::optional<bool>,
             std::optional<at::MemoryFormat> format) {
  c10::DeviceGuard guard(chosen(on));
  return at::detail::empty_generic(size, &memory, KEYS, c10::dtype_or_default(dtype), format);
}

Tensor empty_strided(IntArrayRef size, IntArrayRef stride, Dtype dtype, Layout, std::optional<Device> on,
                     std::optional<bool>) {
  c10::DeviceGuard guard(chosen(on));
  return at::detail::empty_strided_generic(size, stride, &memory, KEYS, c10::dtype_or_default(dtype));
}

IntArrayRef known(SymIntArrayRef sizes) { return C10_AS_INTARRAYREF_SLOW(sizes); }

// What is behind a tensor, as large as asked for; FSDP gives gathered weights back so.
void resize_storage(const Tensor& tensor, int64_t bytes) {
  auto storage = tensor.storage();
  auto data = memory.allocate(bytes);
  if (auto kept = std::min<size_t>(bytes, storage.nbytes())) std::memcpy(data.get(), storage.data(), kept);
  storage.set_data_ptr_noswap(std::move(data));
  storage.set_nbytes(bytes);
}

const Tensor& resize_(const Tensor& tensor, SymIntArrayRef size, std::optional<at::MemoryFormat>) {
  auto impl = tensor.unsafeGetTensorImpl();
  impl->set_sizes_contiguous(known(size));
  const size_t bytes = (impl->numel() + impl->storage_offset()) * impl->itemsize();
  if (tensor.storage().nbytes() < bytes) resize_storage(tensor, bytes);
  return tensor;
}

Tensor as_strided(const Tensor& tensor, SymIntArrayRef size, SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  auto start = offset ? std::optional(offset->expect_int()) : std::nullopt;
  return at::native::as_strided_tensorimpl(tensor, known(size), known(stride), start);
}
Tensor view(const Tensor& tensor, SymIntArrayRef size) { return at::native::view(tensor, known(size)); }
Tensor reshape_alias(const Tensor& tensor, SymIntArrayRef size, SymIntArrayRef stride) {
  return at::native::_reshape_alias(tensor, known(size), known(stride));
}

TORCH_LIBRARY(stand_in, library) { library.def("resize_storage", resize_storage); }
TORCH_LIBRARY_IMPL(_, CUDA, library) { library.fallback(torch::CppFunction::makeFromBoxedFunction<&compute>()); }
TORCH_LIBRARY_IMPL(aten, CUDA, library) {
  library.impl("empty.memory_format", empty);
  library.impl("empty_strided", empty_strided);
  library.impl("resize_", resize_);
  library.impl("copy_", copy_);
  library.impl("_local_scalar_dense", local_scalar);
  library.impl("record_stream", record_stream);
  library.impl("as_strided", as_strided);
  library.impl("view", view);
  library.impl("_reshape_alias", reshape_alias);
  library.impl("unfold", at::native::unfold);
  library.impl("set_", at::native::set_cpu_);
  library.impl("set_.source_Storage", at::native::set_);
  library.impl("set_.source_Storage_storage_offset", at::native::set_storage_cpu_);
  library.impl("set_.source_Tensor", at::native::set_tensor_);
}

const bool ready = [] {
  c10::SetAllocator(c10::kCUDA, &memory);
  c10::WarningUtils::WarningHandlerGuard quiet(&silent);  // of NCCL's, which would not be found
  static torch::Library collectives(torch::Library::IMPL, "c10d", c10::DispatchKey::CUDA, __FILE__, __LINE__);
  for (auto name : {"broadcast_", "allreduce_", "allreduce_coalesced_", "allgather_", "_allgather_base_", "gather_",
                    "allgather_into_tensor_coalesced_", "reduce_", "reduce_scatter_", "_reduce_scatter_base_",
                    "reduce_scatter_tensor_coalesced_", "scatter_", "alltoall_", "alltoall_base_", "barrier", "send",
                    "recv_"})
    collectives.impl(name, torch::CppFunction::makeFromBoxedFunction<&compute>());
  return true;
}();

}  // namespace

extern "C" {
int stand_in_devices() { return DEVICES; }
int stand_in_device() { return device; }
void stand_in_set_device(int index) { Guard().setDevice(cuda(index)); }
void stand_in_refuse(int mode) { refusing = mode; }
int stand_in_refuses() { return refusing; }
int64_t stand_in_waits() { return waits; }
int64_t stand_in_unrecorded() { return unrecorded; }
int64_t stand_in_allocated() { return allocated; }
int64_t stand_in_peak() { return peak; }
void stand_in_reset_peak() { peak = allocated.load(); }
void stand_in_limit(int64_t bytes) { limit = bytes; }
}
