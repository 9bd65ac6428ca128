package podspec

import (
	"fmt"
	"path"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
)

func validateContainers(spec *corev1.PodSpec, volumes map[string]corev1.VolumeSource, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(spec.Containers) == 0 {
		errs = append(errs, field.Required(base.Child("containers"), ""))
	}
	names := sets.New[string]()
	claims := sets.New[string]()
	for _, claim := range spec.ResourceClaims {
		claims.Insert(claim.Name)
	}
	for _, c := range containersOf(spec, base) {
		errs = append(errs, check.Needed(c.path.Child("name"), c.Name, validation.IsDNS1123Label)...)
		if c.Name != "" && names.Has(c.Name) {
			errs = append(errs, field.Duplicate(c.path.Child("name"), c.Name))
		}
		names.Insert(c.Name)
		errs = append(errs, validateContainer(c, spec, volumes, claims)...)
	}
	errs = append(errs, conflictingHostPorts(spec, base)...)
	for i, c := range spec.EphemeralContainers {
		if target := c.TargetContainerName; target != "" && !names.Has(target) {
			errs = append(errs, field.NotFound(base.Child("ephemeralContainers").Index(i).Child("targetContainerName"), target))
		}
	}
	return errs
}

func validateContainer(c located, spec *corev1.PodSpec, volumes map[string]corev1.VolumeSource, claims sets.Set[string]) field.ErrorList {
	var errs field.ErrorList
	switch {
	case c.Image == "":
		errs = append(errs, field.Required(c.path.Child("image"), ""))
	case strings.TrimSpace(c.Image) != c.Image:
		errs = append(errs, field.Invalid(c.path.Child("image"), c.Image, "must not have leading or trailing whitespace"))
	}
	errs = append(errs, check.OneOf(c.path.Child("terminationMessagePolicy"), c.TerminationMessagePolicy,
		corev1.TerminationMessageReadFile, corev1.TerminationMessageFallbackToLogsOnError)...)
	errs = append(errs, check.OneOf(c.path.Child("imagePullPolicy"), c.ImagePullPolicy,
		corev1.PullAlways, corev1.PullIfNotPresent, corev1.PullNever)...)
	errs = append(errs, validatePorts(c.Ports, c.path.Child("ports"))...)
	errs = append(errs, validateEnv(c.Env, volumes, c.path.Child("env"))...)
	errs = append(errs, validateEnvFrom(c.EnvFrom, c.path.Child("envFrom"))...)
	errs = append(errs, validateMounts(c, volumes)...)
	errs = append(errs, validateDevices(c, volumes)...)
	errs = append(errs, ValidateRequirements(&c.Resources, claims, c.path.Child("resources"))...)
	errs = append(errs, validateResizePolicies(c.ResizePolicy, spec.RestartPolicy, c.path.Child("resizePolicy"))...)
	errs = append(errs, validateContainerSecurity(c.SecurityContext, spec, c.path.Child("securityContext"))...)
	errs = append(errs, validateRestart(c)...)

	probed := c.role == mainContainer || c.sidecar()
	if !probed {
		return append(errs, forbidRunning(c)...)
	}
	errs = append(errs, validateLifecycle(c.Lifecycle, spec, c.path.Child("lifecycle"))...)
	grace := spec.TerminationGracePeriodSeconds
	errs = append(errs, validateProbe(c.LivenessProbe, grace, true, c.path.Child("livenessProbe"))...)
	errs = append(errs, validateProbe(c.StartupProbe, grace, true, c.path.Child("startupProbe"))...)
	errs = append(errs, validateProbe(c.ReadinessProbe, grace, false, c.path.Child("readinessProbe"))...)
	return errs
}

// forbidRunning refuses what only makes sense for containers that stay: init containers end, ephemeral ones are visitors.
func forbidRunning(c located) field.ErrorList {
	var errs field.ErrorList
	set := map[string]bool{
		"lifecycle": c.Lifecycle != nil, "livenessProbe": c.LivenessProbe != nil,
		"readinessProbe": c.ReadinessProbe != nil, "startupProbe": c.StartupProbe != nil,
	}
	reason := "may not be set for init containers without restartPolicy=Always"
	if c.role == ephemeralContainer {
		reason = "cannot be set for an Ephemeral Container"
		set["ports"] = len(c.Ports) > 0
		set["resources"] = len(c.Resources.Limits)+len(c.Resources.Requests) > 0
		set["resizePolicy"] = len(c.ResizePolicy) > 0
		set["restartPolicy"] = c.RestartPolicy != nil
	}
	for _, name := range sets.List(sets.KeySet(set)) {
		if set[name] {
			errs = append(errs, field.Forbidden(c.path.Child(name), reason))
		}
	}
	return errs
}

func validateRestart(c located) field.ErrorList {
	var errs field.ErrorList
	errs = append(errs, check.OneOfOptional(c.path.Child("restartPolicy"), c.RestartPolicy,
		corev1.ContainerRestartPolicyAlways, corev1.ContainerRestartPolicyOnFailure, corev1.ContainerRestartPolicyNever)...)
	if len(c.RestartPolicyRules) == 0 {
		return errs
	}
	rules := c.path.Child("restartPolicyRules")
	if c.RestartPolicy == nil {
		errs = append(errs, field.Required(c.path.Child("restartPolicy"), "must specify restartPolicy when restart rules are used"))
	}
	if len(c.RestartPolicyRules) > 20 {
		errs = append(errs, field.TooMany(rules, len(c.RestartPolicyRules), 20))
	}
	for i, rule := range c.RestartPolicyRules {
		at := rules.Index(i)
		errs = append(errs, check.OneOf(at.Child("action"), rule.Action, corev1.ContainerRestartRuleActionRestart, corev1.ContainerRestartRuleActionRestartAllContainers)...)
		if rule.ExitCodes == nil {
			errs = append(errs, field.Required(at.Child("exitCodes"), "must be specified"))
			continue
		}
		errs = append(errs, check.OneOf(at.Child("exitCodes", "operator"), rule.ExitCodes.Operator,
			corev1.ContainerRestartRuleOnExitCodesOpIn, corev1.ContainerRestartRuleOnExitCodesOpNotIn)...)
		if len(rule.ExitCodes.Values) > 255 {
			errs = append(errs, field.TooMany(at.Child("exitCodes", "values"), len(rule.ExitCodes.Values), 255))
		}
	}
	return errs
}

func validatePorts(ports []corev1.ContainerPort, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, port := range ports {
		at := base.Index(i)
		if port.Name != "" {
			if bad := check.Text(at.Child("name"), port.Name, validation.IsValidPortName); len(bad) > 0 {
				errs = append(errs, bad...)
			} else if names.Has(port.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), port.Name))
			}
			names.Insert(port.Name)
		}
		if port.ContainerPort == 0 {
			errs = append(errs, field.Required(at.Child("containerPort"), ""))
		} else {
			errs = append(errs, check.Port(at.Child("containerPort"), port.ContainerPort)...)
		}
		if port.HostPort != 0 {
			errs = append(errs, check.Port(at.Child("hostPort"), port.HostPort)...)
		}
		if port.HostIP != "" {
			errs = append(errs, validateIP(at.Child("hostIP"), port.HostIP)...)
		}
		errs = append(errs, check.OneOf(at.Child("protocol"), port.Protocol, corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)...)
	}
	return errs
}

func conflictingHostPorts(spec *corev1.PodSpec, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	taken := sets.New[string]()
	for _, c := range containersOf(spec, base) {
		// Init containers are gone before the others start, unless they are sidecars.
		if c.role != mainContainer && !c.sidecar() {
			continue
		}
		for i, port := range c.Ports {
			if port.HostPort == 0 {
				continue
			}
			key := fmt.Sprintf("%s/%s/%d", port.Protocol, port.HostIP, port.HostPort)
			if taken.Has(key) {
				errs = append(errs, field.Duplicate(c.path.Child("ports").Index(i).Child("hostPort"), key))
			}
			taken.Insert(key)
		}
	}
	return errs
}

// fieldsInEnv are what an environment variable may take from the pod.
var fieldsInEnv = []string{"metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
	"spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"}

// fieldsInVolume are what a file of a volume may take from the pod.
var fieldsInVolume = []string{"metadata.name", "metadata.namespace", "metadata.labels", "metadata.annotations", "metadata.uid"}

var containerResources = []string{"limits.cpu", "limits.ephemeral-storage", "limits.memory",
	"requests.cpu", "requests.ephemeral-storage", "requests.memory"}

func validateEnv(env []corev1.EnvVar, volumes map[string]corev1.VolumeSource, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, variable := range env {
		at := base.Index(i)
		errs = append(errs, check.Needed(at.Child("name"), variable.Name, validation.IsRelaxedEnvVarName)...)
		from := variable.ValueFrom
		if from == nil {
			continue
		}
		at = at.Child("valueFrom")
		sources := 0
		if from.FieldRef != nil {
			sources++
			errs = append(errs, validateFieldRef(from.FieldRef, fieldsInEnv, at.Child("fieldRef"))...)
		}
		if from.ResourceFieldRef != nil {
			sources++
			errs = append(errs, validateResourceRef(from.ResourceFieldRef, false, at.Child("resourceFieldRef"))...)
		}
		if from.ConfigMapKeyRef != nil {
			sources++
			errs = append(errs, validateKey(from.ConfigMapKeyRef.Name, from.ConfigMapKeyRef.Key, at.Child("configMapKeyRef"))...)
		}
		if from.SecretKeyRef != nil {
			sources++
			errs = append(errs, validateKey(from.SecretKeyRef.Name, from.SecretKeyRef.Key, at.Child("secretKeyRef"))...)
		}
		if file := from.FileKeyRef; file != nil {
			sources++
			errs = append(errs, check.Needed(at.Child("fileKeyRef", "key"), file.Key, validation.IsRelaxedEnvVarName)...)
			errs = append(errs, check.Needed(at.Child("fileKeyRef", "volumeName"), file.VolumeName, nil)...)
			errs = append(errs, relativePath(file.Path, at.Child("fileKeyRef", "path"))...)
			if source, ok := volumes[file.VolumeName]; file.VolumeName != "" && (!ok || source.EmptyDir == nil) {
				errs = append(errs, field.Invalid(at.Child("fileKeyRef", "volumeName"), file.VolumeName, "referenced volume must be of type emptyDir"))
			}
		}
		switch {
		case sources == 0:
			errs = append(errs, field.Invalid(at, "", "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef`, or `fileKeyRef`"))
		case variable.Value != "":
			errs = append(errs, field.Invalid(at, "", "may not be specified when `value` is not empty"))
		case sources > 1:
			errs = append(errs, field.Invalid(at, "", "may not have more than one field specified at a time"))
		}
	}
	return errs
}

func validateKey(name, key string, base *field.Path) field.ErrorList {
	errs := check.Needed(base.Child("name"), name, nil)
	return append(errs, check.Needed(base.Child("key"), key, validation.IsConfigMapKey)...)
}

func validateEnvFrom(sources []corev1.EnvFromSource, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i, source := range sources {
		at := base.Index(i)
		if source.Prefix != "" {
			errs = append(errs, check.Text(at.Child("prefix"), source.Prefix, validation.IsRelaxedEnvVarName)...)
		}
		if source.ConfigMapRef != nil {
			errs = append(errs, check.Needed(at.Child("configMapRef", "name"), source.ConfigMapRef.Name, check.Subdomain)...)
		}
		if source.SecretRef != nil {
			errs = append(errs, check.Needed(at.Child("secretRef", "name"), source.SecretRef.Name, check.Subdomain)...)
		}
		switch {
		case source.ConfigMapRef != nil && source.SecretRef != nil:
			errs = append(errs, field.Invalid(base, "", "may not have more than one field specified at a time"))
		case source.ConfigMapRef == nil && source.SecretRef == nil:
			errs = append(errs, field.Invalid(base, "", "must specify one of: `configMapRef` or `secretRef`"))
		}
	}
	return errs
}

func validateFieldRef(ref *corev1.ObjectFieldSelector, allowed []string, base *field.Path) field.ErrorList {
	errs := check.Needed(base.Child("apiVersion"), ref.APIVersion, nil)
	if ref.APIVersion != "" && ref.APIVersion != "v1" {
		errs = append(errs, field.NotSupported(base.Child("apiVersion"), ref.APIVersion, []string{"v1"}))
	}
	if ref.FieldPath == "" {
		return append(errs, field.Required(base.Child("fieldPath"), ""))
	}
	if name, key, ok := cutSubscript(ref.FieldPath); ok {
		switch name {
		case "metadata.annotations":
			// Annotation keys are compared without regard to case.
			return append(errs, check.Text(base.Child("fieldPath"), strings.ToLower(key), validation.IsQualifiedName)...)
		case "metadata.labels":
			return append(errs, check.Text(base.Child("fieldPath"), key, validation.IsQualifiedName)...)
		}
		return append(errs, field.Invalid(base.Child("fieldPath"), ref.FieldPath, "does not support subscript"))
	}
	if !slices.Contains(allowed, ref.FieldPath) {
		errs = append(errs, field.NotSupported(base.Child("fieldPath"), ref.FieldPath, allowed))
	}
	return errs
}

// cutSubscript splits metadata.labels['key'].
func cutSubscript(expression string) (name, key string, ok bool) {
	name, rest, ok := strings.Cut(expression, "['")
	if !ok || !strings.HasSuffix(rest, "']") {
		return expression, "", false
	}
	return name, strings.TrimSuffix(rest, "']"), true
}

func validateResourceRef(ref *corev1.ResourceFieldSelector, inVolume bool, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case inVolume && ref.ContainerName == "":
		errs = append(errs, field.Required(base.Child("containerName"), ""))
	case ref.Resource == "":
		errs = append(errs, field.Required(base.Child("resource"), ""))
	case !slices.Contains(containerResources, ref.Resource) && !strings.Contains(ref.Resource, ".hugepages-"):
		errs = append(errs, field.NotSupported(base.Child("resource"), ref.Resource, containerResources))
	}
	if ref.Divisor.IsZero() {
		return errs
	}
	_, resource, _ := strings.Cut(ref.Resource, ".")
	allowed := []string{"1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei"}
	if resource == "cpu" {
		allowed = []string{"1m", "1"}
	}
	if !slices.Contains(allowed, ref.Divisor.String()) {
		errs = append(errs, field.Invalid(base.Child("divisor"), ref.Resource, fmt.Sprintf("only divisor's values %s are supported with the %s resource", strings.Join(allowed, ", "), resource)))
	}
	return errs
}

func validateMounts(c located, volumes map[string]corev1.VolumeSource) field.ErrorList {
	var errs field.ErrorList
	targets := sets.New[string]()
	for i, mount := range c.VolumeMounts {
		at := c.path.Child("volumeMounts").Index(i)
		source, found := volumes[mount.Name]
		switch {
		case mount.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case !found:
			errs = append(errs, field.NotFound(at.Child("name"), mount.Name))
		}
		if mount.MountPath == "" {
			errs = append(errs, field.Required(at.Child("mountPath"), ""))
		} else if targets.Has(mount.MountPath) {
			errs = append(errs, field.Invalid(at.Child("mountPath"), mount.MountPath, "must be unique"))
		}
		targets.Insert(mount.MountPath)
		for _, device := range c.VolumeDevices {
			if device.DevicePath == mount.MountPath {
				errs = append(errs, field.Invalid(at.Child("mountPath"), mount.MountPath, "must not already exist as a path in volumeDevices"))
			}
			if device.Name == mount.Name {
				errs = append(errs, field.Invalid(at.Child("name"), mount.Name, "must not already exist in volumeDevices"))
			}
		}
		if mount.SubPath != "" && mount.SubPathExpr != "" {
			errs = append(errs, field.Invalid(at.Child("subPathExpr"), mount.SubPathExpr, "subPathExpr and subPath are mutually exclusive"))
		}
		for name, value := range map[string]string{"subPath": mount.SubPath, "subPathExpr": mount.SubPathExpr} {
			if value == "" {
				continue
			}
			if c.role == ephemeralContainer {
				errs = append(errs, field.Forbidden(at.Child(name), "cannot be set for an Ephemeral Container"))
			}
			errs = append(errs, relativePath(value, at.Child(name))...)
		}
		errs = append(errs, validatePropagation(mount, c, at)...)
		if mount.RecursiveReadOnly != nil && *mount.RecursiveReadOnly != corev1.RecursiveReadOnlyDisabled && !mount.ReadOnly {
			errs = append(errs, field.Forbidden(at.Child("recursiveReadOnly"), "may only be specified when readOnly is true"))
		}
		if found && source.Image != nil && mount.SubPath == "" && mount.MountPropagation != nil && *mount.MountPropagation == corev1.MountPropagationBidirectional {
			errs = append(errs, field.Forbidden(at.Child("mountPropagation"), "image volumes are read-only"))
		}
	}
	return errs
}

func validatePropagation(mount corev1.VolumeMount, c located, at *field.Path) field.ErrorList {
	errs := check.OneOfOptional(at.Child("mountPropagation"), mount.MountPropagation,
		corev1.MountPropagationBidirectional, corev1.MountPropagationHostToContainer, corev1.MountPropagationNone)
	if mount.MountPropagation == nil || *mount.MountPropagation != corev1.MountPropagationBidirectional {
		return errs
	}
	if s := c.SecurityContext; s == nil || s.Privileged == nil || !*s.Privileged {
		errs = append(errs, field.Forbidden(at.Child("mountPropagation"), "Bidirectional mount propagation is available only to privileged containers"))
	}
	return errs
}

func validateDevices(c located, volumes map[string]corev1.VolumeSource) field.ErrorList {
	var errs field.ErrorList
	base := c.path.Child("volumeDevices")
	for i, device := range c.VolumeDevices {
		at := base.Index(i)
		source, found := volumes[device.Name]
		switch {
		case device.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case !found:
			errs = append(errs, field.NotFound(at.Child("name"), device.Name))
		case source.PersistentVolumeClaim == nil && source.Ephemeral == nil:
			errs = append(errs, field.Invalid(at.Child("name"), device.Name, "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"))
		}
		switch {
		case device.DevicePath == "":
			errs = append(errs, field.Required(at.Child("devicePath"), ""))
		case slices.Contains(strings.Split(device.DevicePath, "/"), ".."):
			errs = append(errs, field.Invalid(at.Child("devicePath"), device.DevicePath, "can not contain backsteps ('..')"))
		}
	}
	errs = append(errs, check.Unique(base, c.VolumeDevices, func(d corev1.VolumeDevice) string { return d.DevicePath }, "devicePath")...)
	return append(errs, check.Unique(base, c.VolumeDevices, func(d corev1.VolumeDevice) string { return d.Name }, "name")...)
}

// relativePath refuses paths that leave where they start.
func relativePath(value string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(value) {
		errs = append(errs, field.Invalid(at, value, "must be a relative path"))
	}
	if slices.Contains(strings.Split(value, "/"), "..") {
		errs = append(errs, field.Invalid(at, value, "must not contain '..'"))
	}
	return errs
}

func validateLifecycle(lifecycle *corev1.Lifecycle, spec *corev1.PodSpec, base *field.Path) field.ErrorList {
	if lifecycle == nil {
		return nil
	}
	var errs field.ErrorList
	for name, handler := range map[string]*corev1.LifecycleHandler{"postStart": lifecycle.PostStart, "preStop": lifecycle.PreStop} {
		if handler == nil {
			continue
		}
		at := base.Child(name)
		errs = append(errs, validateHandler(action{exec: handler.Exec, http: handler.HTTPGet, tcp: handler.TCPSocket, sleep: handler.Sleep}, spec.TerminationGracePeriodSeconds, at)...)
	}
	return errs
}

// action is what probes and lifecycle hooks have in common.
type action struct {
	exec  *corev1.ExecAction
	http  *corev1.HTTPGetAction
	tcp   *corev1.TCPSocketAction
	grpc  *corev1.GRPCAction
	sleep *corev1.SleepAction
}

func validateHandler(a action, grace *int64, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	set := 0
	begin := func(name string) *field.Path {
		if set++; set > 1 {
			errs = append(errs, field.Forbidden(base.Child(name), "may not specify more than 1 handler type"))
		}
		return base.Child(name)
	}
	if a.exec != nil {
		if at := begin("exec"); len(a.exec.Command) == 0 {
			errs = append(errs, field.Required(at.Child("command"), ""))
		}
	}
	if a.http != nil {
		errs = append(errs, validateHTTPGet(a.http, begin("httpGet"))...)
	}
	if a.tcp != nil {
		errs = append(errs, check.PortNumberOrName(begin("tcpSocket").Child("port"), a.tcp.Port)...)
	}
	if a.grpc != nil {
		errs = append(errs, check.PortNumberOrName(begin("grpc").Child("port"), intstr.FromInt32(a.grpc.Port))...)
	}
	if a.sleep != nil {
		at := begin("sleep")
		if seconds := a.sleep.Seconds; seconds < 0 || grace != nil && seconds > *grace {
			limit := int64(0)
			if grace != nil {
				limit = *grace
			}
			errs = append(errs, field.Invalid(at, seconds, fmt.Sprintf("must be non-negative and less than terminationGracePeriodSeconds (%d)", limit)))
		}
	}
	if set == 0 {
		errs = append(errs, field.Required(base, "must specify a handler type"))
	}
	return errs
}

func validateHTTPGet(get *corev1.HTTPGetAction, base *field.Path) field.ErrorList {
	errs := check.Needed(base.Child("path"), get.Path, nil)
	errs = append(errs, check.PortNumberOrName(base.Child("port"), get.Port)...)
	errs = append(errs, check.OneOf(base.Child("scheme"), get.Scheme, corev1.URISchemeHTTP, corev1.URISchemeHTTPS)...)
	for _, header := range get.HTTPHeaders {
		errs = append(errs, check.Text(base.Child("httpHeaders"), header.Name, validation.IsHTTPHeaderName)...)
	}
	return errs
}

// validateProbe checks one probe; those that restart their container must succeed at once and may shorten the grace period.
func validateProbe(p *corev1.Probe, grace *int64, restarts bool, base *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := validateHandler(action{exec: p.Exec, http: p.HTTPGet, tcp: p.TCPSocket, grpc: p.GRPC}, grace, base)
	for _, number := range []struct {
		name  string
		value int32
	}{
		{"initialDelaySeconds", p.InitialDelaySeconds}, {"timeoutSeconds", p.TimeoutSeconds}, {"periodSeconds", p.PeriodSeconds},
		{"successThreshold", p.SuccessThreshold}, {"failureThreshold", p.FailureThreshold},
	} {
		errs = append(errs, check.NotNegative(base.Child(number.name), number.value)...)
	}
	if restarts && p.SuccessThreshold != 1 {
		errs = append(errs, field.Invalid(base.Child("successThreshold"), p.SuccessThreshold, "must be 1"))
	}
	if seconds := p.TerminationGracePeriodSeconds; seconds != nil {
		switch {
		case !restarts:
			errs = append(errs, field.Invalid(base.Child("terminationGracePeriodSeconds"), *seconds, "must not be set for readinessProbes"))
		case *seconds <= 0:
			errs = append(errs, field.Invalid(base.Child("terminationGracePeriodSeconds"), *seconds, "must be greater than 0"))
		}
	}
	return errs
}
