package podspec

import (
	"regexp"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"knarr.dev/knarr/appliance/apiserver/kinds/check"
)

var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

const maxSysctlName = 253

func validateSecurity(spec *corev1.PodSpec, base *field.Path) field.ErrorList {
	s := spec.SecurityContext
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	errs = append(errs, validateID(s.FSGroup, validation.IsValidGroupID, base.Child("fsGroup"))...)
	errs = append(errs, validateID(s.RunAsUser, validation.IsValidUserID, base.Child("runAsUser"))...)
	errs = append(errs, validateID(s.RunAsGroup, validation.IsValidGroupID, base.Child("runAsGroup"))...)
	for i := range s.SupplementalGroups {
		errs = append(errs, validateID(&s.SupplementalGroups[i], validation.IsValidGroupID, base.Child("supplementalGroups").Index(i))...)
	}
	errs = append(errs, check.OneOfOptional(base.Child("supplementalGroupsPolicy"), s.SupplementalGroupsPolicy, corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	errs = append(errs, check.OneOfOptional(base.Child("fsGroupChangePolicy"), s.FSGroupChangePolicy, corev1.FSGroupChangeOnRootMismatch, corev1.FSGroupChangeAlways)...)
	errs = append(errs, validateSysctls(s.Sysctls, base.Child("sysctls"))...)
	errs = append(errs, validateSeccomp(s.SeccompProfile, base.Child("seccompProfile"))...)
	return append(errs, validateAppArmor(s.AppArmorProfile, base.Child("appArmorProfile"))...)
}

func validateID(id *int64, rule func(int64) []string, at *field.Path) field.ErrorList {
	var errs field.ErrorList
	if id != nil {
		for _, message := range rule(*id) {
			errs = append(errs, field.Invalid(at, *id, message))
		}
	}
	return errs
}

func validateSysctls(sysctls []corev1.Sysctl, base *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[string]bool{}
	for i, sysctl := range sysctls {
		at := base.Index(i).Child("name")
		// Slashes and dots separate alike: net/ipv4/x is net.ipv4.x.
		name := strings.ReplaceAll(sysctl.Name, "/", ".")
		switch {
		case sysctl.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(sysctl.Name) > maxSysctlName || !sysctlName.MatchString(sysctl.Name):
			errs = append(errs, field.Invalid(at, sysctl.Name, "must have at most 253 characters and match regex "+sysctlName.String()))
		case seen[name]:
			errs = append(errs, field.Duplicate(at, sysctl.Name))
		}
		seen[name] = true
	}
	return errs
}

func validateSeccomp(p *corev1.SeccompProfile, base *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := check.OneOf(base.Child("type"), p.Type, corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	return append(errs, validateProfileName(p.LocalhostProfile, p.Type == corev1.SeccompProfileTypeLocalhost, true, base.Child("localhostProfile"))...)
}

func validateAppArmor(p *corev1.AppArmorProfile, base *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	errs := check.OneOf(base.Child("type"), p.Type, corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	return append(errs, validateProfileName(p.LocalhostProfile, p.Type == corev1.AppArmorProfileTypeLocalhost, false, base.Child("localhostProfile"))...)
}

func validateProfileName(name *string, local, file bool, at *field.Path) field.ErrorList {
	switch {
	case local && (name == nil || *name == ""):
		return field.ErrorList{field.Required(at, "must be set when type is Localhost")}
	case !local && name != nil:
		return field.ErrorList{field.Invalid(at, *name, "can only be set when type is Localhost")}
	case local && file:
		return filePath(*name, at)
	}
	return nil
}

func validateContainerSecurity(s *corev1.SecurityContext, spec *corev1.PodSpec, base *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	errs = append(errs, validateID(s.RunAsUser, validation.IsValidUserID, base.Child("runAsUser"))...)
	errs = append(errs, validateID(s.RunAsGroup, validation.IsValidGroupID, base.Child("runAsGroup"))...)
	errs = append(errs, check.OneOfOptional(base.Child("procMount"), s.ProcMount, corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
	if s.ProcMount != nil && *s.ProcMount == corev1.UnmaskedProcMount && (spec.HostUsers == nil || *spec.HostUsers) {
		errs = append(errs, field.Invalid(base.Child("procMount"), *s.ProcMount, "`hostUsers` must be false to use `Unmasked`"))
	}
	if s.AllowPrivilegeEscalation != nil && !*s.AllowPrivilegeEscalation {
		if s.Privileged != nil && *s.Privileged {
			errs = append(errs, field.Invalid(base, s, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if s.Capabilities != nil {
			for _, capability := range s.Capabilities.Add {
				if capability == "CAP_SYS_ADMIN" {
					errs = append(errs, field.Invalid(base, s, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
				}
			}
		}
	}
	errs = append(errs, validateSeccomp(s.SeccompProfile, base.Child("seccompProfile"))...)
	return append(errs, validateAppArmor(s.AppArmorProfile, base.Child("appArmorProfile"))...)
}
