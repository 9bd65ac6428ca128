package subresource

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/httpstream/wsstream"
	"k8s.io/apimachinery/pkg/util/proxy"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericrest "k8s.io/apiserver/pkg/registry/generic/rest"
	"k8s.io/apiserver/pkg/registry/rest"
	translator "k8s.io/apiserver/pkg/util/proxy"

	"knarr.dev/knarr/appliance/apiserver/resource"
)

// Log streams what a container wrote.
func Log(env *resource.Env, _ *resource.Storage) (rest.Storage, error) { return &podLog{env}, nil }

type podLog struct{ env *resource.Env }

var (
	_ rest.GetterWithOptions = &podLog{}
	_ rest.StorageMetadata   = &podLog{}
)

func (l *podLog) New() runtime.Object { return &corev1.Pod{} }

// Destroy does nothing: there is nothing but a reference.
func (l *podLog) Destroy() {}

func (l *podLog) NewGetOptions() (runtime.Object, bool, string) {
	return &corev1.PodLogOptions{}, false, ""
}

func (l *podLog) ProducesMIMETypes(string) []string { return []string{"text/plain"} }

func (l *podLog) ProducesObject(string) any { return "" }

// OverrideMetricsVerb tells following a log from reading it.
func (l *podLog) OverrideMetricsVerb(old string) string {
	if old == "GET" {
		return "CONNECT"
	}
	return old
}

func (l *podLog) Get(ctx context.Context, name string, options runtime.Object) (runtime.Object, error) {
	asked, ok := options.(*corev1.PodLogOptions)
	if !ok {
		return nil, fmt.Errorf("read log of pod %s: unexpected options %T", name, options)
	}
	if errs := validateLogOptions(asked); len(errs) > 0 {
		return nil, apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("PodLogOptions").GroupKind(), name, errs)
	}
	pod, err := stored[*corev1.Pod](ctx, l.env, "pods", name)
	if err != nil {
		return nil, err
	}
	container, err := chooseContainer(pod, asked.Container)
	if err != nil {
		return nil, err
	}
	streamer := &logStream{&genericrest.LocationStreamer{
		ContentType:     "text/plain",
		Flush:           asked.Follow,
		ResponseChecker: genericrest.NewGenericHttpResponseChecker(corev1.Resource("pods/log"), name),
		RedirectChecker: genericrest.PreventRedirects,
	}}
	if pod.Spec.NodeName == "" {
		return streamer, nil // nothing was written yet
	}
	location, transport, err := l.env.Nodes.Connect(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	streamer.Transport = transport
	streamer.Location = at(location, logQuery(asked), "containerLogs", pod.Namespace, pod.Name, container)
	return streamer, nil
}

// logStream is a log on its way. What copies it into a WebSocket drops the bytes that come together with the end of the
// stream, which is all of a short log.
type logStream struct{ *genericrest.LocationStreamer }

// InputStream opens the log.
func (s *logStream) InputStream(ctx context.Context, version, accept string) (io.ReadCloser, bool, string, error) {
	stream, flush, contentType, err := s.LocationStreamer.InputStream(ctx, version, accept)
	if stream != nil {
		stream = endApart{stream}
	}
	return stream, flush, contentType, err
}

// endApart tells of the end, or of any other error, in a read of its own: these readers tell it again when asked again.
type endApart struct{ io.ReadCloser }

func (e endApart) Read(p []byte) (int, error) {
	n, err := e.ReadCloser.Read(p)
	if n > 0 {
		return n, nil
	}
	return 0, err
}

func validateLogOptions(o *corev1.PodLogOptions) field.ErrorList {
	var errs field.ErrorList
	if o.TailLines != nil && *o.TailLines < 0 {
		errs = append(errs, field.Invalid(field.NewPath("tailLines"), *o.TailLines, "must be greater than or equal to 0"))
	}
	if o.LimitBytes != nil && *o.LimitBytes < 1 {
		errs = append(errs, field.Invalid(field.NewPath("limitBytes"), *o.LimitBytes, "must be greater than 0"))
	}
	switch {
	case o.SinceSeconds != nil && o.SinceTime != nil:
		errs = append(errs, field.Forbidden(field.NewPath(""), "at most one of `sinceTime` or `sinceSeconds` may be specified"))
	case o.SinceSeconds != nil && *o.SinceSeconds < 1:
		errs = append(errs, field.Invalid(field.NewPath("sinceSeconds"), *o.SinceSeconds, "must be greater than 0"))
	}
	return errs
}

func logQuery(o *corev1.PodLogOptions) url.Values {
	query := url.Values{}
	for name, set := range map[string]bool{"follow": o.Follow, "previous": o.Previous, "timestamps": o.Timestamps} {
		if set {
			query.Set(name, "true")
		}
	}
	for name, number := range map[string]*int64{"sinceSeconds": o.SinceSeconds, "tailLines": o.TailLines, "limitBytes": o.LimitBytes} {
		if number != nil {
			query.Set(name, strconv.FormatInt(*number, 10))
		}
	}
	if o.SinceTime != nil {
		query.Set("sinceTime", o.SinceTime.Format(time.RFC3339))
	}
	if o.Stream != nil {
		query.Set("stream", *o.Stream)
	}
	return query
}

// chooseContainer finds the container a client means; with several it has to say.
func chooseContainer(pod *corev1.Pod, name string) (string, error) {
	var names, initNames []string
	for _, c := range pod.Spec.Containers {
		names = append(names, c.Name)
	}
	for _, c := range pod.Spec.InitContainers {
		initNames = append(initNames, c.Name)
	}
	if name == "" {
		switch len(names) {
		case 1:
			return names[0], nil
		case 0:
			return "", apierrors.NewBadRequest("a container name must be specified for pod " + pod.Name)
		}
		message := fmt.Sprintf("a container name must be specified for pod %s, choose one of: %v", pod.Name, names)
		if len(initNames) > 0 {
			message += fmt.Sprintf(" or one of the init containers: %v", initNames)
		}
		return "", apierrors.NewBadRequest(message)
	}
	for _, c := range pod.Spec.EphemeralContainers {
		names = append(names, c.Name)
	}
	if !slices.Contains(append(names, initNames...), name) {
		return "", apierrors.NewBadRequest(fmt.Sprintf("container %s is not valid for pod %s", name, pod.Name))
	}
	return name, nil
}

// at is a path below a node agent's address.
func at(base *url.URL, query url.Values, elements ...string) *url.URL {
	location := *base
	location.Path = path.Join(append([]string{"/"}, elements...)...)
	location.RawQuery = query.Encode()
	return &location
}

// stream is a connection to a container that goes both ways: exec, attach, port-forward.
type stream struct {
	env     *resource.Env
	options func() runtime.Object
	open    func(s *stream, ctx context.Context, pod *corev1.Pod, options runtime.Object, responder rest.Responder) (http.Handler, error)
}

var _ rest.Connecter = &stream{}

// Exec runs a command in a container.
func Exec(env *resource.Env, _ *resource.Storage) (rest.Storage, error) {
	return &stream{env: env, options: func() runtime.Object { return &corev1.PodExecOptions{} }, open: (*stream).exec}, nil
}

// Attach joins the streams of a running container.
func Attach(env *resource.Env, _ *resource.Storage) (rest.Storage, error) {
	return &stream{env: env, options: func() runtime.Object { return &corev1.PodAttachOptions{} }, open: (*stream).attach}, nil
}

// PortForward reaches ports of a pod.
func PortForward(env *resource.Env, _ *resource.Storage) (rest.Storage, error) {
	return &stream{env: env, options: func() runtime.Object { return &corev1.PodPortForwardOptions{} }, open: (*stream).forward}, nil
}

func (s *stream) New() runtime.Object { return s.options() }

// Destroy does nothing: there is nothing but a reference.
func (s *stream) Destroy() {}

func (s *stream) NewConnectOptions() (runtime.Object, bool, string) { return s.options(), false, "" }

// ConnectMethods are those of SPDY clients and of WebSocket clients.
func (s *stream) ConnectMethods() []string { return []string{http.MethodGet, http.MethodPost} }

func (s *stream) Connect(ctx context.Context, name string, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	pod, err := stored[*corev1.Pod](ctx, s.env, "pods", name)
	if err != nil {
		return nil, err
	}
	if pod.Spec.NodeName == "" {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("pod %s does not have a host assigned", name))
	}
	return s.open(s, ctx, pod, options, responder)
}

func (s *stream) exec(ctx context.Context, pod *corev1.Pod, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.PodExecOptions)
	if !ok {
		return nil, fmt.Errorf("run a command in pod %s: unexpected options %T", pod.Name, options)
	}
	if len(o.Command) == 0 {
		return nil, apierrors.NewBadRequest("you must specify a command to run")
	}
	query := url.Values{"command": o.Command}
	return s.remote(ctx, pod, "exec", o.Container, translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}, query, responder)
}

func (s *stream) attach(ctx context.Context, pod *corev1.Pod, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.PodAttachOptions)
	if !ok {
		return nil, fmt.Errorf("attach to pod %s: unexpected options %T", pod.Name, options)
	}
	return s.remote(ctx, pod, "attach", o.Container, translator.Options{Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr, Tty: o.TTY}, url.Values{}, responder)
}

// remote hands the streams of a container on. Agents speak SPDY; clients that speak WebSocket are translated for.
func (s *stream) remote(ctx context.Context, pod *corev1.Pod, verb, container string, streams translator.Options, query url.Values, responder rest.Responder) (http.Handler, error) {
	if !streams.Stdin && !streams.Stdout && !streams.Stderr {
		return nil, apierrors.NewBadRequest("you must specify at least one of stdin, stdout, stderr")
	}
	container, err := chooseContainer(pod, container)
	if err != nil {
		return nil, err
	}
	for name, set := range map[string]bool{"input": streams.Stdin, "output": streams.Stdout, "error": streams.Stderr, "tty": streams.Tty} {
		if set {
			query.Set(name, "1")
		}
	}
	base, transport, err := s.env.Nodes.Connect(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	location := at(base, query, verb, pod.Namespace, pod.Name, container)
	return translator.NewTranslatingHandler(
		upgraded(location, transport, responder),
		translator.NewStreamTranslatorHandler(location, transport, 0, streams),
		wsstream.IsWebSocketRequestWithStreamCloseProtocol), nil
}

func (s *stream) forward(ctx context.Context, pod *corev1.Pod, options runtime.Object, responder rest.Responder) (http.Handler, error) {
	o, ok := options.(*corev1.PodPortForwardOptions)
	if !ok {
		return nil, fmt.Errorf("forward ports of pod %s: unexpected options %T", pod.Name, options)
	}
	query := url.Values{}
	if len(o.Ports) > 0 {
		var ports []string
		for _, port := range o.Ports {
			ports = append(ports, strconv.Itoa(int(port)))
		}
		query.Set("port", strings.Join(ports, ","))
	}
	base, transport, err := s.env.Nodes.Connect(ctx, pod.Spec.NodeName)
	if err != nil {
		return nil, err
	}
	handler := upgraded(at(base, query, "portForward", pod.Namespace, pod.Name), transport, responder)
	return translator.NewTranslatingHandler(handler, translator.NewTunnelingHandler(handler), wsstream.IsWebSocketRequestWithTunnelingProtocol), nil
}

func upgraded(location *url.URL, transport http.RoundTripper, responder rest.Responder) *proxy.UpgradeAwareHandler {
	return proxy.NewUpgradeAwareHandler(location, transport, false, true, proxy.NewErrorResponder(responder))
}
