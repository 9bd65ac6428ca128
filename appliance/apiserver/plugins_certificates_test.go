package apiserver_test

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"knarr.dev/knarr/appliance/apiserver/servertest"
)

// somebody may do what rules say, everywhere, and nothing with signers.
func somebody(ctx context.Context, c *kubernetes.Clientset, name string, rules ...rbacv1.PolicyRule) (*kubernetes.Clientset, error) {
	if _, err := c.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: rules}, forReal); err != nil {
		return nil, err
	}
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: name}, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: name},
		Subjects: []rbacv1.Subject{{Kind: rbacv1.UserKind, APIGroup: rbacv1.GroupName, Name: name}}}
	if _, err := c.RbacV1().ClusterRoleBindings().Create(ctx, binding, forReal); err != nil {
		return nil, err
	}
	config := server.Admin()
	config.Impersonate = rest.ImpersonationConfig{UserName: name}
	return kubernetes.NewForConfig(config)
}

func writing(resources ...string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: []string{"create", "update"}, APIGroups: []string{certificatesv1.GroupName}, Resources: resources}
}

// podCertificate makes the smallest request for one.
func podCertificate(ctx context.Context, c *kubernetes.Clientset, ns string) (*certificatesv1.PodCertificateRequest, error) {
	smallest, err := servertest.Smallest(certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest"), nil)
	if err != nil {
		return nil, err
	}
	request := &certificatesv1.PodCertificateRequest{}
	if err := runtime.DefaultUnstructuredConverter.FromUnstructured(smallest.Object, request); err != nil {
		return nil, err
	}
	return c.CertificatesV1().PodCertificateRequests(ns).Create(ctx, request, forReal)
}

// certificatePluginCases are about who may speak for a signer.
func certificatePluginCases() map[string]pluginCase {
	return map[string]pluginCase{
		"CertificateApproval lets those approve who may for the signer": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			csr, err := c.CertificatesV1().CertificateSigningRequests().Create(ctx, request(ns, "example.com/signer", "a"), forReal)
			if err != nil {
				return err
			}
			approver, err := somebody(ctx, c, ns, writing("certificatesigningrequests/approval"),
				rbacv1.PolicyRule{Verbs: []string{"approve"}, APIGroups: []string{certificatesv1.GroupName}, Resources: []string{"signers"}, ResourceNames: []string{"example.com/*"}})
			if err != nil {
				return err
			}
			csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "a", Message: "a"}}
			return soon(ctx, func() error {
				_, err := approver.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, ns, csr, metav1.UpdateOptions{})
				return err
			})
		},
		"CertificateSigning asks for the signer": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			csr, err := c.CertificatesV1().CertificateSigningRequests().Create(ctx, request(ns, "example.com/signer", "a"), forReal)
			if err != nil {
				return err
			}
			writer, err := somebody(ctx, c, ns, writing("certificatesigningrequests/status"))
			if err != nil {
				return err
			}
			csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "a", Message: "a"}}
			return soon(ctx, func() error {
				_, err := writer.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, csr, metav1.UpdateOptions{})
				return refused(err, `user not permitted to sign for signerName "example.com/signer"`)
			})
		},
		"PodCertificateSigning asks for the signer": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			made, err := podCertificate(ctx, c, ns)
			if err != nil {
				return err
			}
			writer, err := somebody(ctx, c, ns, writing("podcertificaterequests/status"))
			if err != nil {
				return err
			}
			made.Status.Conditions = []metav1.Condition{{Type: certificatesv1.PodCertificateRequestConditionTypeDenied, Status: metav1.ConditionTrue, Reason: "No", Message: "no", LastTransitionTime: metav1.Now()}}
			return soon(ctx, func() error {
				_, err := writer.CertificatesV1().PodCertificateRequests(ns).UpdateStatus(ctx, made, metav1.UpdateOptions{})
				return refused(err, `user not permitted to sign for signerName "`+made.Spec.SignerName+`"`)
			})
		},
		"ClusterTrustBundleAttest asks for the signer": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			writer, err := somebody(ctx, c, ns, writing("clustertrustbundles"))
			if err != nil {
				return err
			}
			bundle := &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: "example.com:signer:" + ns},
				Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: "example.com/signer", TrustBundle: string(server.PKI.ClusterCA.CertPEM)}}
			return soon(ctx, func() error {
				_, err := writer.CertificatesV1().ClusterTrustBundles().Create(ctx, bundle, try)
				return refused(err, `user not permitted to attest for signerName "example.com/signer"`)
			})
		},
		"CertificateSubjectRestriction is for the clients' signer only": func(ctx context.Context, c *kubernetes.Clientset, ns string) error {
			_, err := c.CertificatesV1().CertificateSigningRequests().Create(ctx, request(ns, "example.com/signer", "system:masters"), try)
			return err
		},
	}
}
